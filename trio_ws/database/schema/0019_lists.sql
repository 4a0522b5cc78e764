-- Lists of all accounts' invoices by status, and of one account's at an address that others use too. Without these, a
-- page read each invoice of all accounts, or each at that address: 230 and 160 ms with a million invoices, now 1.

CREATE INDEX invoices_status ON @schema@.invoices (status, id);
CREATE INDEX invoices_account_address ON @schema@.invoices (account_id, address, status, id) WHERE address IS NOT NULL;
