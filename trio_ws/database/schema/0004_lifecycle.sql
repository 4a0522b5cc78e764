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
  IF NEW.status <> OLD.status AND NOT status_may_become(OLD.status, NEW.status) THEN
    RAISE check_violation USING
      MESSAGE = format('invoice %s is %s and cannot become %s', OLD.id, OLD.status, NEW.status),
      HINT = 'unpaid -> confirming -> paid; confirming -> unpaid; unpaid -> expired or cancelled';
  END IF;
  IF (NEW.uid, NEW.amount, NEW.currency) IS DISTINCT FROM (OLD.uid, OLD.amount, OLD.currency) THEN
    RAISE check_violation USING
      MESSAGE = format('the uid, amount and currency of invoice %s cannot change', OLD.id),
      HINT = 'cancel it, and make another one';
  END IF;
  RETURN NEW;
END
$$;

-- Before next_version, by its name.
CREATE TRIGGER guard BEFORE UPDATE ON invoices FOR EACH ROW EXECUTE FUNCTION guard_invoice();
