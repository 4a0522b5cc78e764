-- Prices that go away, so that who keeps them in memory knows; and currencies with four digits.

-- How many digits a currency's smallest unit has: see 0001. `exponent` of currencies.py says the same.
CREATE OR REPLACE FUNCTION currency_exponent(currency text) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE
    WHEN currency IN ('BIF', 'CLP', 'DJF', 'GNF', 'ISK', 'JPY', 'KMF', 'KRW', 'PYG', 'RWF', 'UGX', 'UYI',
                      'VND', 'VUV', 'XAF', 'XOF', 'XPF') THEN 0
    WHEN currency IN ('BHD', 'IQD', 'JOD', 'KWD', 'LYD', 'OMR', 'TND') THEN 3
    WHEN currency IN ('CLF', 'UYW') THEN 4
    WHEN currency IN ('USDC', 'USDT', 'TRX') THEN 6
    WHEN currency IN ('BCH', 'BTC', 'DOGE', 'LTC') THEN 8
    WHEN currency = 'XMR' THEN 12
    WHEN currency IN ('BNB', 'DAI', 'ETH') THEN 18
    ELSE 2
  END
$$;

-- When somebody said so last, whether it changed anything or not: of several accounts' prices the latest counts.
-- What is outside of the bounds has no form that anybody calculates with.
ALTER TABLE prices
  ADD COLUMN set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  ADD CHECK (value BETWEEN 1e-36 AND 1e36);

-- Times are ours to say: by them conversion chooses.
CREATE FUNCTION guard_price() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    NEW.version := 1;
    NEW.created_at := clock_timestamp();
    NEW.updated_at := NEW.created_at;
    NEW.set_at := NEW.created_at;
  ELSIF NEW.id <> OLD.id OR NEW.created_at <> OLD.created_at THEN
    RAISE check_violation USING MESSAGE = format('the id and time of creation of price %s cannot change', OLD.id);
  ELSIF NEW.set_at <> OLD.set_at THEN
    NEW.set_at := clock_timestamp();
  END IF;
  RETURN NEW;
END
$$;

CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON prices FOR EACH ROW EXECUTE FUNCTION guard_price();

-- Clients know no such event, so its topic is one that they can't follow.
CREATE FUNCTION log_price_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  PERFORM log_event('price.deleted', ARRAY['prices'], json_build_object('id', CASE WHEN TG_OP = 'DELETE' THEN OLD.id END),
                    NULL);
  RETURN NULL;
END
$$;

REVOKE EXECUTE ON FUNCTION log_price_deleted() FROM PUBLIC;

CREATE TRIGGER log_delete AFTER DELETE ON prices FOR EACH ROW EXECUTE FUNCTION log_price_deleted();
CREATE TRIGGER log_truncate AFTER TRUNCATE ON prices FOR EACH STATEMENT EXECUTE FUNCTION log_price_deleted();
