-- Pages of GET /domains at equal cost, retries that keep the CA's order, and a look at whose an authorization was.

CREATE INDEX domains_newest ON domains (id DESC) WHERE deleted_at IS NULL;
-- By -id, an order that only this index has: else the planner may walk domains_newest past everything in other statuses.
CREATE INDEX domains_newest_by_status ON domains (status, (-id)) WHERE deleted_at IS NULL;

CREATE INDEX authorizations_url ON authorizations (url);

ALTER TABLE orders ADD COLUMN retry_of bigint REFERENCES orders;
COMMENT ON COLUMN orders.retry_of IS 'The failed order that a customer retries; its CA order is kept if it is still pending there.';
