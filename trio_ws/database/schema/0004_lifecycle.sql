-- What may become of an invoice, held against whoever writes it; expiry; and keys that make creating repeatable.

ALTER TABLE invoices
  ADD COLUMN idempotency_key text,
  ADD COLUMN request_hash bytea;  -- of the request that the key stands for

CREATE UNIQUE INDEX invoices_idempotency ON invoices (account_id, idempotency_key)
  WHERE idempotency_key IS NOT NULL;
CREATE INDEX invoices_expiry ON invoices (expires_at) WHERE status = 'unpaid';

-- The protocol's section 3; paid, expired and cancelled are final.
CREATE FUNCTION status_may_become(old_status text, new_status text) RETURNS bool
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT (old_status, new_status) IN (
    ('unpaid', 'confirming'), ('confirming', 'paid'), ('confirming', 'unpaid'),
    ('unpaid', 'expired'), ('unpaid', 'cancelled'))
$$;

CREATE FUNCTION guard_invoice() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    NEW.version := 1;
    RETURN NEW;
  END IF;
  IF NEW.status <> OLD.status AND NOT status_may_become(OLD.status, NEW.status) THEN
    RAISE check_violation USING
      MESSAGE = format('invoice %s is %s and cannot become %s', OLD.id, OLD.status, NEW.status),
      HINT = 'unpaid -> confirming -> paid; confirming -> unpaid; unpaid -> expired or cancelled';
  END IF;
  IF (NEW.id, NEW.uid, NEW.account_id, NEW.amount, NEW.currency, NEW.created_at, NEW.idempotency_key, NEW.request_hash)
     IS DISTINCT FROM
     (OLD.id, OLD.uid, OLD.account_id, OLD.amount, OLD.currency, OLD.created_at, OLD.idempotency_key, OLD.request_hash)
  THEN
    RAISE check_violation USING
      MESSAGE = format('only the status, memo, address, URLs and time to pay of invoice %s can change', OLD.id),
      HINT = 'cancel it, and make another one';
  END IF;
  RETURN NEW;
END
$$;

-- Before next_version, by its name.
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON invoices FOR EACH ROW EXECUTE FUNCTION guard_invoice();

-- Followers would not hear of it, and its idempotency key would make another one. Whoever has to, to forget what is
-- years old, is its owner: ALTER TABLE invoices DISABLE TRIGGER keep.
CREATE FUNCTION keep_rows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE check_violation USING
    MESSAGE = format('rows of %I are not removed', TG_TABLE_NAME), HINT = TG_ARGV[0];
END
$$;

CREATE TRIGGER keep BEFORE DELETE OR TRUNCATE ON invoices FOR EACH STATEMENT
  EXECUTE FUNCTION keep_rows('cancel an invoice that is not to be paid');

-- What is infinite has no form on the wire.
ALTER TABLE invoices ADD CHECK (isfinite(created_at) AND isfinite(updated_at) AND isfinite(expires_at));
