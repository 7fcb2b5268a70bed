-- The indexes of the file before take the place and the names of those that went by the state.

DROP INDEX orders_one_open_per_domain, orders_one_open_per_certificate, orders_acme_url_open_key;
ALTER INDEX orders_one_open_per_domain_new RENAME TO orders_one_open_per_domain;
ALTER INDEX orders_one_open_per_certificate_new RENAME TO orders_one_open_per_certificate;
ALTER INDEX orders_acme_url_open_key_new RENAME TO orders_acme_url_open_key;
-- Room on the page for the versions of a row that its steps leave. Pages that are there stay as they are.
ALTER TABLE orders SET (fillfactor = 70);
