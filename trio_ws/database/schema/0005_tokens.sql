-- Tokens: which account a client is, and what it may do. Only their SHA-256 is here.

ALTER TABLE accounts ADD CHECK (id > 0);

CREATE TABLE tokens (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  account_id bigint NOT NULL REFERENCES accounts,
  hash       bytea NOT NULL UNIQUE CHECK (length(hash) = 32),
  scopes     text[] NOT NULL CHECK (scopes <@ ARRAY['read', 'write', 'process'] AND scopes <> '{}'),
  expires_at timestamptz,
  revoked_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Whatever changes about a token, or takes it away, is an event, so that its connections end on every server.
CREATE FUNCTION log_token() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  PERFORM log_event('token.changed', ARRAY['token:' || OLD.id], json_build_object('id', OLD.id), NULL);
  RETURN NULL;
END
$$;

CREATE TRIGGER log_event AFTER UPDATE OR DELETE ON tokens FOR EACH ROW EXECUTE FUNCTION log_token();
CREATE TRIGGER keep BEFORE TRUNCATE ON tokens FOR EACH STATEMENT EXECUTE FUNCTION keep_rows('revoke or delete them');

-- A role that may make a table of its own could else hang them on it, and forge events. To fire the triggers that
-- there are takes no right to them.
REVOKE EXECUTE ON FUNCTION log_invoice(), log_price(), log_token() FROM PUBLIC;
