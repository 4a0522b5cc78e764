/* Many WebSocket clients in one thread, light enough that the server is what gets measured.
 *
 *   load PORT ask  CONNECTIONS IN_FLIGHT SECONDS < messages
 *   load PORT hold CONNECTIONS MESSAGES  SECONDS < messages
 *   load PORT herd CONNECTIONS MESSAGES  SECONDS < messages
 *
 * Messages are the lines of stdin; each connection goes round them from a place of its own. `ask` keeps so
 * many of them unanswered on each connection, for so long. `hold` sends one from each connection as it opens
 * (none, where there are no lines), awaits the reply to it, and then counts what is pushed until each connection
 * has had so many messages, or the time is up. `herd` sends them all at once when all are open, and counts
 * replies as well. Each prints a line of JSON when all are open, and one at the end.
 *
 * Its frames are whole and masked, if all with one mask; pings are answered; a close frame ends it, exit 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { TEXT = 1, CLOSE = 8, PING = 9, PONG = 10 };
enum { ROOM = 65536, READY_AT_ONCE = 256, HANDSHAKE_MS = 30000, GOODBYE_MS = 500 };
enum { HANDSHAKES_AT_ONCE = 64 }; /* some servers' listen queue has room for 100 */
static const uint8_t MASK[4] = {0x12, 0x34, 0x56, 0x78};
static const char FAILURE[] = "\"status\":\"error\"";

struct frame { uint8_t *bytes; size_t length; };

struct client {
    int socket, opened;
    size_t turn;      /* which message is next */
    uint8_t *buffer;  /* what has come and is not yet a whole frame */
    size_t held;
    double *sent_at;  /* of what is unanswered, a ring */
    unsigned long asked, heard;
};

static struct frame *messages;
static size_t message_count;
static struct client *clients;
static unsigned long client_count, payload_bytes, failures;
static int poll_descriptor;

static void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static struct frame make_frame(int opcode, const uint8_t *payload, size_t length)
{
    struct frame frame = {malloc(length + 8), 0};
    if (length > 65535)
        die("a message of %zu bytes is too long", length);
    frame.bytes[frame.length++] = 0x80 | opcode;
    if (length < 126) {
        frame.bytes[frame.length++] = 0x80 | length;
    } else {
        frame.bytes[frame.length++] = 0x80 | 126;
        frame.bytes[frame.length++] = length >> 8;
        frame.bytes[frame.length++] = length & 255;
    }
    memcpy(frame.bytes + frame.length, MASK, 4);
    frame.length += 4;
    for (size_t i = 0; i < length; i++)
        frame.bytes[frame.length++] = payload[i] ^ MASK[i & 3];
    return frame;
}

static void read_messages(void)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    while ((length = getline(&line, &room, stdin)) > 0) {
        if (line[length - 1] == '\n')
            length--;
        messages = realloc(messages, (message_count + 1) * sizeof *messages);
        messages[message_count++] = make_frame(TEXT, (uint8_t *)line, length);
    }
    free(line);
}

static void put(struct client *client, const uint8_t *bytes, size_t length)
{
    if (send(client->socket, bytes, length, MSG_NOSIGNAL) != (ssize_t)length)
        die("sending: %s", strerror(errno));
}

/* Send the next messages in one go. */
static void ask(struct client *client, unsigned long count, unsigned long in_flight)
{
    static uint8_t bytes[ROOM];
    size_t length = 0;
    double at = now();
    while (count--) {
        struct frame *frame = &messages[client->turn++ % message_count];
        if (length + frame->length > sizeof bytes) {
            put(client, bytes, length);
            length = 0;
        }
        memcpy(bytes + length, frame->bytes, frame->length);
        length += frame->length;
        client->sent_at[client->asked++ % in_flight] = at;
    }
    put(client, bytes, length);
}

/* Begin a connection: TCP's part of it the kernel does, also where the server is busy. */
static void call(struct client *client, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = client};
    char head[512];
    int one = 1;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    client->socket = socket(AF_INET, SOCK_STREAM, 0);
    if (client->socket < 0 || connect(client->socket, (struct sockaddr *)&address, sizeof address))
        die("connecting: %s", strerror(errno));
    setsockopt(client->socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    int length = snprintf(head, sizeof head,
        "GET / HTTP/1.1\r\nHost: localhost:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", port);
    put(client, (uint8_t *)head, length);
    client->buffer = malloc(ROOM + 1);
    epoll_ctl(poll_descriptor, EPOLL_CTL_ADD, client->socket, &interest);
}

/* Read what is there of the reply to the opening request; return whether that is all of it. */
static int is_open(struct client *client)
{
    ssize_t got = recv(client->socket, client->buffer + client->held, ROOM - client->held, MSG_DONTWAIT);
    if (got <= 0)
        die("the opening handshake: %s", got ? strerror(errno) : "the server has hung up");
    client->held += got;
    client->buffer[client->held] = 0;
    if (!strstr((char *)client->buffer, "\r\n\r\n"))
        return 0;
    if (strncmp((char *)client->buffer, "HTTP/1.1 101", 12))
        die("the server refuses: %.100s", client->buffer);
    client->held = 0; /* nobody speaks to us before we have spoken */
    return 1;
}

/* Deal with one frame; return whether it was a message. */
static int hear(struct client *client, int opcode, const uint8_t *payload, size_t length)
{
    if (opcode == TEXT) {
        payload_bytes += length;
        failures += memmem(payload, length, FAILURE, sizeof FAILURE - 1) != NULL;
        return 1;
    }
    if (opcode == CLOSE)
        die("the server closes with %d %.*s", length < 2 ? 1005 : payload[0] << 8 | payload[1],
            length < 2 ? 0 : (int)length - 2, payload + 2);
    if (opcode == PING) {
        struct frame pong = make_frame(PONG, payload, length);
        put(client, pong.bytes, pong.length);
        free(pong.bytes);
    }
    return 0;
}

/* Return how long the frame's head is, and note how long its payload; 0: its head is not all there. */
static size_t measure(const uint8_t *frame, size_t left, size_t *length)
{
    if (left < 2)
        return 0;
    *length = frame[1] & 127;
    if (*length < 126)
        return 2;
    if (*length == 127)
        die("a frame is longer than this client takes");
    if (left < 4)
        return 0;
    *length = (size_t)frame[2] << 8 | frame[3];
    return 4;
}

/* Read what is there; return how many messages that makes. */
static unsigned long receive(struct client *client)
{
    unsigned long heard = 0;
    size_t done = 0, head, length;
    ssize_t got = recv(client->socket, client->buffer + client->held, ROOM - client->held, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (got <= 0)
        die("receiving: %s", got ? strerror(errno) : "the server has hung up");
    client->held += got;
    while ((head = measure(client->buffer + done, client->held - done, &length))
           && head + length <= client->held - done) {
        const uint8_t *frame = client->buffer + done;
        heard += hear(client, frame[0] & 15, frame + head, length);
        done += head + length;
    }
    if (!done && client->held == ROOM)
        die("a frame is longer than this client takes");
    client->held -= done;
    memmove(client->buffer, client->buffer + done, client->held);
    return heard;
}

/* Let what is unanswered be answered. */
static void finish(unsigned long missing)
{
    struct epoll_event ready[READY_AT_ONCE];
    for (double end = now() + GOODBYE_MS * 1e-3; missing && now() < end;) {
        int count = epoll_wait(poll_descriptor, ready, READY_AT_ONCE, GOODBYE_MS);
        for (int i = 0; i < count; i++)
            missing -= receive(ready[i].data.ptr);
    }
}

/* Close as one should, and give the server a moment to do so. */
static void leave(void)
{
    struct epoll_event ready[READY_AT_ONCE];
    static uint8_t rest[ROOM];
    struct frame goodbye = make_frame(CLOSE, (const uint8_t *)"\x03\xe8", 2);
    unsigned long left = client_count;
    for (unsigned long i = 0; i < client_count; i++)
        send(clients[i].socket, goodbye.bytes, goodbye.length, MSG_NOSIGNAL);
    for (double end = now() + GOODBYE_MS * 1e-3; left && now() < end;) {
        int count = epoll_wait(poll_descriptor, ready, READY_AT_ONCE, GOODBYE_MS);
        for (int i = 0; i < count; i++) {
            struct client *client = ready[i].data.ptr;
            if (recv(client->socket, rest, sizeof rest, MSG_DONTWAIT) > 0)
                continue;
            epoll_ctl(poll_descriptor, EPOLL_CTL_DEL, client->socket, NULL);
            left--;
        }
    }
}

static int ascending(const void *one, const void *other)
{
    double difference = *(const double *)one - *(const double *)other;
    return difference < 0 ? -1 : difference > 0;
}

static void run_ask(unsigned long in_flight, double seconds)
{
    struct epoll_event ready[READY_AT_ONCE];
    unsigned long replies = 0, room = 1 << 16;
    double *waits = malloc(room * sizeof *waits), begin = now(), at = begin;
    if (!message_count)
        die("there is nothing to ask: no line on stdin");
    for (unsigned long i = 0; i < client_count; i++) {
        clients[i].sent_at = malloc(in_flight * sizeof *clients[i].sent_at);
        ask(&clients[i], in_flight, in_flight);
    }
    while (at < begin + seconds) {
        int count = epoll_wait(poll_descriptor, ready, READY_AT_ONCE, 10);
        for (int i = 0; i < count; i++) {
            struct client *client = ready[i].data.ptr;
            unsigned long heard = receive(client);
            at = now();
            for (unsigned long j = 0; j < heard; j++) {
                if (replies == room)
                    waits = realloc(waits, (room *= 2) * sizeof *waits);
                waits[replies++] = at - client->sent_at[client->heard++ % in_flight];
            }
            if (heard)
                ask(client, heard, in_flight);
        }
        at = now();
    }
    if (!replies)
        die("no reply came");
    qsort(waits, replies, sizeof *waits, ascending);
    printf("{\"replies\":%lu,\"seconds\":%.6f,\"p50\":%.7f,\"p99\":%.7f,\"failures\":%lu}\n", replies,
           at - begin, waits[replies / 2], waits[replies * 99 / 100], failures);
    fflush(stdout);
    finish(in_flight * client_count);
}

static void run_hold(unsigned long wanted, double seconds)
{
    struct epoll_event ready[READY_AT_ONCE];
    unsigned long missing = wanted * client_count, heard_bytes = payload_bytes;
    double *last = calloc(wanted, sizeof *last), end = now() + seconds;
    for (unsigned long i = 0; i < client_count; i++)
        clients[i].heard = 0;
    while (missing && now() < end) {
        int count = epoll_wait(poll_descriptor, ready, READY_AT_ONCE, 10);
        for (int i = 0; i < count; i++) {
            struct client *client = ready[i].data.ptr;
            for (unsigned long heard = receive(client); heard; heard--) {
                if (client->heard == wanted)
                    die("more messages came than were to come");
                last[client->heard++] = now();
                missing--;
            }
        }
    }
    printf("{\"messages\":%lu,\"missing\":%lu,\"bytes\":%lu,\"failures\":%lu,\"last_had_it\":[",
           wanted * client_count - missing, missing, payload_bytes - heard_bytes, failures);
    for (unsigned long i = 0; i < wanted; i++)
        printf("%s%.6f", i ? "," : "", last[i]);
    printf("]}\n");
    fflush(stdout);
}

/* Send the first message of each. */
static void greet(void)
{
    double at;
    for (unsigned long i = 0; i < client_count; i++) {
        clients[i].sent_at = &at;
        ask(&clients[i], 1, 1);
    }
}

/* Open all connections, some at once. One that introduces itself is open when it has the reply to its first
 * message: from then on, all that comes is pushed. */
static void open_all(int port, int introduces)
{
    struct epoll_event ready[READY_AT_ONCE];
    unsigned long called = 0, done = 0;
    while (done < client_count) {
        while (called < client_count && called - done < HANDSHAKES_AT_ONCE)
            call(&clients[called++], port);
        int count = epoll_wait(poll_descriptor, ready, READY_AT_ONCE, HANDSHAKE_MS);
        if (!count)
            die("%lu of %lu are not connected, or had no reply", client_count - done, client_count);
        for (int i = 0; i < count; i++) {
            struct client *client = ready[i].data.ptr;
            if (client->opened) {
                done += receive(client);
            } else if ((client->opened = is_open(client))) {
                struct frame *first = &messages[client->turn];
                if (introduces)
                    put(client, first->bytes, first->length);
                else
                    done++;
            }
        }
    }
}

int main(int count, char **arguments)
{
    if (count != 6)
        die("usage: load PORT ask|hold|herd CONNECTIONS IN_FLIGHT|MESSAGES SECONDS < messages");
    int asks = !strcmp(arguments[2], "ask"), is_herd = !strcmp(arguments[2], "herd");
    unsigned long number = strtoul(arguments[4], NULL, 10);
    double begin = now(), seconds = atof(arguments[5]);

    client_count = strtoul(arguments[3], NULL, 10);
    clients = calloc(client_count, sizeof *clients);
    poll_descriptor = epoll_create1(0);
    read_messages();
    for (unsigned long i = 0; i < client_count; i++)
        clients[i].turn = message_count ? i * message_count / client_count : 0;
    open_all(atoi(arguments[1]), !asks && !is_herd && message_count);
    printf("{\"connected\":%.6f}\n", now() - begin);
    fflush(stdout);
    if (is_herd)
        greet();
    if (asks)
        run_ask(number, seconds);
    else
        run_hold(number, seconds);
    leave();
    return 0;
}
