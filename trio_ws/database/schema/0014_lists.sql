-- Lists of invoices, page by page, the newest first: by account or address, and status. Each page reads its own rows,
-- however many others there are.

CREATE INDEX invoices_account_status ON @schema@.invoices (account_id, status, id);
CREATE INDEX invoices_address_status ON @schema@.invoices (address, status, id) WHERE address IS NOT NULL;
DROP INDEX @schema@.invoices_address;
