-- The digits of every currency: EXPONENTS of currencies.py says the same. ETH and BNB are counted in units of 10^-9 and DAI
-- in 10^-6, for in 10^-18 no amount could exceed 0.009. Coins that had two digits because nobody knew theirs have them.
--
-- What is stored keeps its worth. An invoice, with its payments, is counted in the new unit where each of its amounts is a
-- whole number of it that fits. Else its amounts stay, and its currency says their unit: `ETH18`, or `SOL2`. So nothing is
-- rounded, and one odd invoice keeps no database from the new units. Either is a change as any other: the row has its
-- next version, and followers their event. Idempotency keys and hashes stay: a request repeated finds its invoice.
--
-- What an invoice in SOL was counted in, nobody but its shop knows: `the currency's smallest unit` is 10^-9, and we
-- converted to 10^-2. Both guesses are wrong somewhere, by a factor of ten million. So that is asked for.

-- Nobody writes until this has committed. Payments first, as whoever records one has it.
LOCK TABLE @schema@.payments, @schema@.invoices, @schema@.prices IN SHARE ROW EXCLUSIVE MODE;

-- `was` is how many digits amounts have that are stored, NULL: who knows; `is_now` how many they have from here on.
-- It is UNLOGGED, for a publication of all tables would bring its rows to subscribers, which have no such table.
CREATE UNLOGGED TABLE @schema@.new_units AS
  SELECT name, defined, is_now, coalesce(said, defined) AS was
  FROM (VALUES ('BNB', 18, 9), ('DAI', 18, 6), ('ETH', 18, 9),
               ('ADA', NULL, 6), ('ATOM', NULL, 6), ('EURC', NULL, 6), ('XRP', NULL, 6), ('XLM', NULL, 7),
               ('DASH', NULL, 8), ('ZEC', NULL, 8), ('AVAX', NULL, 9), ('ETC', NULL, 9), ('LINK', NULL, 9),
               ('MATIC', NULL, 9), ('POL', NULL, 9), ('SOL', NULL, 9), ('TON', NULL, 9), ('DOT', NULL, 10),
               ('BNB18', NULL, 18), ('DAI18', NULL, 18), ('ETH18', NULL, 18)) AS coin (name, defined, is_now)
  CROSS JOIN LATERAL (
    SELECT (regexp_match(current_setting('trio_ws.stored_digits', true), format('\m%s=(\d{1,2})\M', name)))[1]::int
      AS said) answer;

-- Invoices that are not in their currency's new unit. What a subscription brings is for its publisher to convert:
-- otherwise it would be done twice.
CREATE UNLOGGED TABLE @schema@.recounted AS
  SELECT i.id, unit.name, unit.was, unit.is_now, scale.up, scale.down,
         i.amount % scale.down = 0 AND i.amount * scale.up <= 9007199254740991
         -- An invoice that was copied has its sums with it, and may have them before its payments.
         AND i.amount_paid % scale.down = 0 AND i.amount_pending % scale.down = 0
         AND NOT EXISTS (SELECT FROM @schema@.payments p WHERE p.invoice_id = i.id
                         AND (p.amount % scale.down <> 0 OR abs(p.amount) * scale.up > 9007199254740991)) AS is_exact
  FROM @schema@.invoices i
  JOIN @schema@.new_units unit ON unit.name = i.currency::text
  CROSS JOIN LATERAL (SELECT 10::numeric ^ greatest(0, unit.is_now - unit.was) AS up,
                             10::numeric ^ greatest(0, unit.was - unit.is_now) AS down) scale
  WHERE unit.was IS DISTINCT FROM unit.is_now AND NOT @schema@.is_subscribed('invoices'::name);

DO $do$
DECLARE
  -- A slip must not be silence: whoever meant `ETH=9` and wrote `eth=9` would have all in ETH taken as before.
  unread constant text := (
    SELECT string_agg(part, ', ')
    FROM regexp_split_to_table(current_setting('trio_ws.stored_digits', true), '[\s,]+') part
    WHERE part <> '' AND NOT EXISTS (SELECT FROM @schema@.new_units WHERE part ~ format('^%s=\d{1,2}$', name)));
  wrong constant text := (
    SELECT string_agg(format('%s=%s (but %s or %s)', name, was, coalesce(defined, 2), is_now), ', ' ORDER BY name)
    FROM @schema@.new_units WHERE was NOT IN (coalesce(defined, 2), is_now));
  unclear constant text[] := (
    SELECT ARRAY[string_agg(format('%s (%s, as number %s)', name, invoices, example), ', ' ORDER BY name),
                 string_agg(name || '=' || is_now, ',' ORDER BY name)]
    FROM (SELECT name, is_now, count(*) AS invoices, min(id) AS example FROM @schema@.recounted
          WHERE was IS NULL GROUP BY name, is_now) coin);
BEGIN
  IF unread IS NOT NULL THEN
    RAISE EXCEPTION USING MESSAGE = format(
      'trio_ws.stored_digits has %s, and is read as SOL=9,XRP=2: coins whose digits change, and =digits', unread);
  ELSIF wrong IS NOT NULL THEN
    RAISE EXCEPTION USING MESSAGE = 'trio_ws.stored_digits says ' || wrong;
  ELSIF unclear[1] IS NOT NULL THEN
    RAISE EXCEPTION USING MESSAGE = format(
      'nothing is changed yet: how many digits have the amounts of invoices in %s? Say so before the command,'
      ' as PGOPTIONS=''-c trio_ws.stored_digits=%s'', or =2 for hundredths: see the changelog',
      unclear[1], unclear[2]);
  END IF;
END
$do$;

ALTER TABLE @schema@.payments DISABLE TRIGGER guard, DISABLE TRIGGER follow_changed;  -- which would add to the sums
ALTER TABLE @schema@.invoices DISABLE TRIGGER guard;

WITH changed AS (
  UPDATE @schema@.payments p
  SET amount = CASE WHEN unit.is_exact THEN div(p.amount * unit.up, unit.down) ELSE p.amount END,
      currency = CASE WHEN unit.is_exact THEN p.currency ELSE unit.name || unit.was END
  FROM @schema@.recounted unit, @schema@.payments old WHERE old.id = p.id AND unit.id = p.invoice_id
  RETURNING p AS new_row, old AS old_row)
SELECT @schema@.log_event(
    'payment.updated'::text, @schema@.invoice_topics(i), @schema@.payment_json(new_row, i),
    @schema@.changed_fields(@schema@.payment_json(old_row, i), @schema@.payment_json(new_row, i)),
    i.id, i.webhook_url IS NOT NULL)
FROM changed JOIN @schema@.invoices i ON i.id = (new_row).invoice_id ORDER BY (new_row).id;

UPDATE @schema@.invoices i
SET amount = CASE WHEN unit.is_exact THEN div(i.amount * unit.up, unit.down) ELSE i.amount END,
    amount_paid = CASE WHEN unit.is_exact THEN div(i.amount_paid * unit.up, unit.down) ELSE i.amount_paid END,
    amount_pending = CASE WHEN unit.is_exact THEN div(i.amount_pending * unit.up, unit.down) ELSE i.amount_pending END,
    currency = CASE WHEN unit.is_exact THEN i.currency::text ELSE unit.name || unit.was END
FROM @schema@.recounted unit WHERE unit.id = i.id;

ALTER TABLE @schema@.payments ENABLE ALWAYS TRIGGER guard, ENABLE TRIGGER follow_changed;
ALTER TABLE @schema@.invoices ENABLE ALWAYS TRIGGER guard;

CREATE OR REPLACE FUNCTION @schema@.currency_exponent(currency text) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
  WHEN currency IN ('BIF', 'CLP', 'DJF', 'GNF', 'ISK', 'JPY', 'KMF', 'KRW', 'PYG', 'RWF', 'UGX', 'UYI', 'VND', 'VUV',
                    'XAF', 'XOF', 'XPF') THEN 0
  WHEN currency IN ('AED', 'AFN', 'ALL', 'AMD', 'ANG', 'AOA', 'ARS', 'AUD', 'AWG', 'AZN', 'BAM', 'BBD', 'BDT', 'BGN',
                    'BMD', 'BND', 'BOB', 'BOV', 'BRL', 'BSD', 'BTN', 'BWP', 'BYN', 'BZD', 'CAD', 'CDF', 'CHE', 'CHF',
                    'CHW', 'CNY', 'COP', 'COU', 'CRC', 'CUC', 'CUP', 'CVE', 'CZK', 'DKK', 'DOP', 'DZD', 'EGP', 'ERN',
                    'ETB', 'EUR', 'FJD', 'FKP', 'GBP', 'GEL', 'GHS', 'GIP', 'GMD', 'GTQ', 'GYD', 'HKD', 'HNL', 'HRK',
                    'HTG', 'HUF', 'IDR', 'ILS', 'INR', 'IRR', 'JMD', 'KES', 'KGS', 'KHR', 'KPW', 'KYD', 'KZT', 'LAK',
                    'LBP', 'LKR', 'LRD', 'LSL', 'MAD', 'MDL', 'MGA', 'MKD', 'MMK', 'MNT', 'MOP', 'MRU', 'MUR', 'MVR',
                    'MWK', 'MXN', 'MXV', 'MYR', 'MZN', 'NAD', 'NGN', 'NIO', 'NOK', 'NPR', 'NZD', 'PAB', 'PEN', 'PGK',
                    'PHP', 'PKR', 'PLN', 'QAR', 'RON', 'RSD', 'RUB', 'SAR', 'SBD', 'SCR', 'SDG', 'SEK', 'SGD', 'SHIB',
                    'SHP', 'SLE', 'SLL', 'SOS', 'SRD', 'SSP', 'STN', 'SVC', 'SYP', 'SZL', 'THB', 'TJS', 'TMT', 'TOP',
                    'TRY', 'TTD', 'TWD', 'TZS', 'UAH', 'USD', 'USN', 'UYU', 'UZS', 'VED', 'VES', 'WST', 'XAD', 'XCD',
                    'XCG', 'YER', 'ZAR', 'ZMW', 'ZWG', 'ZWL') THEN 2
  WHEN currency IN ('BHD', 'IQD', 'JOD', 'KWD', 'LYD', 'OMR', 'TND') THEN 3
  WHEN currency IN ('CLF', 'UYW') THEN 4
  WHEN currency IN ('ADA', 'ATOM', 'DAI', 'EURC', 'TRX', 'USDC', 'USDT', 'XRP') THEN 6
  WHEN currency = 'XLM' THEN 7
  WHEN currency IN ('BCH', 'BTC', 'DASH', 'DOGE', 'LTC', 'ZEC') THEN 8
  WHEN currency IN ('AVAX', 'BNB', 'ETC', 'ETH', 'LINK', 'MATIC', 'POL', 'SOL', 'TON') THEN 9
  WHEN currency = 'DOT' THEN 10
  WHEN currency = 'XMR' THEN 12
  WHEN currency IN ('BNB18', 'DAI18', 'ETH18') THEN 18
  ELSE 2
END;

-- See 0011. New: of a copy (see 0013) the amount follows the value in any case. Where only the amount differs, the other
-- database has come to new digits before or after this one, and its value is as it was.
CREATE OR REPLACE FUNCTION @schema@.complete_price() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  digits int := @schema@.currency_exponent(NEW.base_currency::text);
  unit numeric := 10::numeric ^ digits;
BEGIN
  IF NEW.value IS NULL OR (
    TG_OP = 'UPDATE' AND NEW.value = OLD.value AND NEW.amount <> OLD.amount
    AND NOT (NEW.version > OLD.version AND current_setting('session_replication_role') = 'replica'))
  THEN
    NEW.value := round(NEW.amount / unit, digits);
  ELSE
    NEW.amount := round(NEW.value * unit);
  END IF;
  RETURN NEW;
END
$$;

-- Prices say their value; their amounts follow. One beyond 2^53 - 1 of the new units stays in hundredths, as invoices do.
-- Here too a subscriber waits for its publisher: where that brings events, ours would have numbers of theirs.
UPDATE @schema@.prices p SET base_currency = unit.name || '2'
FROM @schema@.new_units unit
WHERE p.base_currency::text = unit.name AND round(p.value * 10::numeric ^ unit.is_now) > 9007199254740991
      AND NOT @schema@.is_subscribed('prices'::name);
UPDATE @schema@.prices p SET value = p.value
FROM @schema@.new_units unit
WHERE p.base_currency::text = unit.name AND NOT @schema@.is_subscribed('prices'::name);

DROP TABLE @schema@.recounted, @schema@.new_units;
