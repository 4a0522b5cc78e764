-- Tokens of operators, who have the scope `admin`: they are of no account, and may do everything for any.

ALTER TABLE @schema@.tokens
  ALTER COLUMN account_id DROP NOT NULL,
  DROP CONSTRAINT tokens_scopes_check,
  ADD CONSTRAINT tokens_account_check CHECK ((account_id IS NULL) = ('admin' = ANY (scopes))),
  ADD CONSTRAINT tokens_scopes_check
    CHECK (scopes <@ ARRAY['read', 'write', 'process', 'admin'] AND scopes <> '{}');
