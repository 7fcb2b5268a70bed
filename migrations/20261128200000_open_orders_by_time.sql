-- What must be unique among open orders is told by ended_at instead of by the state: a step that moves the state alone then writes no
-- index. Alone in its file: writers of orders wait for three passes over the table, and the old indexes are dropped in the next one.

CREATE UNIQUE INDEX orders_one_open_per_domain_new ON orders (domain_id) WHERE origin = 'challenge' AND ended_at IS NULL;
CREATE UNIQUE INDEX orders_one_open_per_certificate_new ON orders (certificate_id) WHERE ended_at IS NULL;
CREATE UNIQUE INDEX orders_acme_url_open_key_new ON orders (acme_url) WHERE ended_at IS NULL;
