-- Jobs of orders are in no index that is about other jobs: every poll moves due_at twice, and each time writes all indexes of the row.

ALTER TABLE jobs DROP CONSTRAINT jobs_delivery_id_key, DROP CONSTRAINT jobs_proposal_id_key;
CREATE UNIQUE INDEX jobs_delivery_id_key ON jobs (delivery_id) WHERE delivery_id IS NOT NULL;
CREATE UNIQUE INDEX jobs_proposal_id_key ON jobs (proposal_id) WHERE proposal_id IS NOT NULL;
