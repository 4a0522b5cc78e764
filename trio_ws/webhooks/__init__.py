"""Webhooks: invoices' events, POSTed to whom they name, signed, in order, until they are taken."""
