-- An account and a few prices, so that the protocol's examples work on a new database.

INSERT INTO accounts (id, name) VALUES (1, 'default');
SELECT setval(pg_get_serial_sequence('accounts', 'id'), 1);

INSERT INTO prices (account_id, currency, base_currency, value) VALUES
  (1, 'BTC', 'USD', 43000.00),
  (1, 'ETH', 'USD', 2300.00),
  (1, 'EUR', 'USD', 1.08);
