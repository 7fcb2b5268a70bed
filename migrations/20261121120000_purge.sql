-- The scheduled purge, and the indexes that finding and deleting old rows needs; which process holds a lease.

ALTER TABLE jobs DROP CONSTRAINT jobs_kind_check,
    ADD CONSTRAINT jobs_kind_check CHECK (kind IN ('poll-challenge', 'sweep', 'purge')) NOT VALID;
ALTER TABLE jobs VALIDATE CONSTRAINT jobs_kind_check;

-- A retry outlives the order that it stands in for.
ALTER TABLE orders DROP CONSTRAINT orders_retry_of_fkey,
    ADD CONSTRAINT orders_retry_of_fkey FOREIGN KEY (retry_of) REFERENCES orders ON DELETE SET NULL NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT orders_retry_of_fkey;
COMMENT ON COLUMN orders.retry_of IS
    'The ended order that this one stands in for, until that is purged; its CA order is kept if it is still pending there.';

-- What is due, by age.
CREATE INDEX orders_ended ON orders (ended_at, id) WHERE cleaned_up_at IS NOT NULL;
CREATE INDEX domains_deleted ON domains (deleted_at) WHERE deleted_at IS NOT NULL;
-- For the checks of foreign keys: without them every deleted row reads a whole table.
CREATE INDEX orders_retry_of ON orders (retry_of) WHERE retry_of IS NOT NULL;
CREATE INDEX orders_of_certificate ON orders (certificate_id);
CREATE INDEX certificates_of_domain ON certificates (domain_id);
CREATE INDEX authorizations_of_domain ON authorizations (domain_id);

ALTER TABLE jobs ADD COLUMN lease_process bigint;
COMMENT ON COLUMN jobs.lease_process IS
    'While leased: a random number of the process, because two may have one name. NULL from an older release.';

INSERT INTO jobs (kind, lane) VALUES ('purge', 2);
