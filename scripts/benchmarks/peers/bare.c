/* What one core can do at most: epoll, recv, send, and as little WebSocket as the load client can't tell from it.
 *
 * Whole frames of up to 64 KB, no queue (who does not read ends it), one handshake for everybody: the key is
 * taken to be the example of RFC 6455, section 1.3, which is the one that the load client sends.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TEXT = 1, CLOSE = 8 };
enum { ROOM = 65536, MOST = 65536, READY_AT_ONCE = 256 };
static const char WELCOME[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                              "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

struct connection {
    int socket, open;
    size_t held;
    size_t place; /* among all */
    uint8_t buffer[ROOM];
};

static struct connection *all[MOST];
static size_t count;
static uint8_t replies[ROOM + 4];
static size_t replies_length;

static void die(const char *what)
{
    fprintf(stderr, "bare: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void put(struct connection *connection, const void *bytes, size_t length)
{
    if (send(connection->socket, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)length
        && errno != EPIPE && errno != ECONNRESET)
        die("sending");
}

static void end(struct connection *connection)
{
    close(connection->socket);
    all[connection->place] = all[--count];
    all[connection->place]->place = connection->place;
    free(connection);
}

/* Append an unmasked frame. */
static size_t write_frame(uint8_t *frame, uint8_t opcode, const uint8_t *payload, size_t length)
{
    size_t head = 2;
    frame[0] = 0x80 | opcode;
    frame[1] = length;
    if (length > 125) {
        frame[1] = 126;
        frame[2] = length >> 8;
        frame[3] = length & 255;
        head = 4;
    }
    memcpy(frame + head, payload, length);
    return head + length;
}

static void publish(struct connection *publisher, const uint8_t *payload, size_t length)
{
    static uint8_t frame[ROOM + 4];
    size_t frame_length = write_frame(frame, TEXT, payload, length);
    for (size_t i = 0; i < count; i++)
        if (all[i] != publisher && all[i]->open)
            put(all[i], frame, frame_length);
}

/* Take the whole frames that are there, and answer them in one go; return whether it goes on. */
static int take(struct connection *connection)
{
    size_t done = 0;
    replies_length = 0;
    while (connection->held - done >= 6) {
        uint8_t *frame = connection->buffer + done, opcode = frame[0] & 15;
        size_t length = frame[1] & 127, head = length == 126 ? 8 : 6;
        if (length == 126)
            length = (size_t)frame[2] << 8 | frame[3];
        if (connection->held - done < head + length)
            break;
        uint8_t *payload = frame + head, *mask = payload - 4;
        for (size_t i = 0; i < length; i++)
            payload[i] ^= mask[i & 3];
        if (opcode == TEXT && length >= 7 && !memcmp(payload, "publish", 7))
            publish(connection, payload, length);
        else if (opcode == TEXT || opcode == CLOSE)
            replies_length += write_frame(replies + replies_length, opcode, payload, length);
        done += head + length;
        if (opcode == CLOSE) {
            put(connection, replies, replies_length);
            return 0;
        }
    }
    if (replies_length)
        put(connection, replies, replies_length);
    connection->held -= done;
    memmove(connection->buffer, connection->buffer + done, connection->held);
    return 1;
}

static int receive(struct connection *connection)
{
    ssize_t got = recv(connection->socket, connection->buffer + connection->held, ROOM - connection->held, 0);
    if (got <= 0)
        return got < 0 && errno == EAGAIN;
    connection->held += got;
    if (!connection->open) {
        uint8_t *last = memmem(connection->buffer, connection->held, "\r\n\r\n", 4);
        if (!last)
            return 1;
        connection->held -= last + 4 - connection->buffer;
        memmove(connection->buffer, last + 4, connection->held);
        put(connection, WELCOME, sizeof WELCOME - 1);
        connection->open = 1;
    }
    return take(connection);
}

static void welcome(int listener, int poll_descriptor)
{
    int one = 1, socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (socket < 0)
        die("accepting");
    if (count == MOST)
        die("too many connections");
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct connection *connection = all[count] = malloc(sizeof *connection);
    connection->socket = socket;
    connection->open = connection->held = 0;
    connection->place = count++;
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = connection};
    epoll_ctl(poll_descriptor, EPOLL_CTL_ADD, socket, &interest);
}

int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), poll_descriptor = epoll_create1(0);
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = NULL}, ready[READY_AT_ONCE];
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1024))
        die("listening");
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("ws://127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    epoll_ctl(poll_descriptor, EPOLL_CTL_ADD, listener, &interest);
    for (;;) {
        int events = epoll_wait(poll_descriptor, ready, READY_AT_ONCE, -1);
        for (int i = 0; i < events; i++) {
            struct connection *connection = ready[i].data.ptr;
            if (!connection)
                welcome(listener, poll_descriptor);
            else if (!receive(connection))
                end(connection);
        }
    }
}
