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

-- Clients know no such event, so its topic is one that they can't follow.
CREATE FUNCTION log_price_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  PERFORM log_event('price.deleted', ARRAY['prices'], json_build_object('id', CASE WHEN TG_OP = 'DELETE' THEN OLD.id END),
                    NULL);
  RETURN NULL;
END
$$;

CREATE TRIGGER log_delete AFTER DELETE ON prices FOR EACH ROW EXECUTE FUNCTION log_price_deleted();
CREATE TRIGGER log_truncate AFTER TRUNCATE ON prices FOR EACH STATEMENT EXECUTE FUNCTION log_price_deleted();
