-- Jobs of orders are in no index that is about other jobs: every poll moves due_at twice, and each time writes all indexes of the row.
-- Alone in its file: writers of jobs wait for two passes over the table. The old indexes go in the next one.

CREATE UNIQUE INDEX jobs_delivery_id_new ON jobs (delivery_id) WHERE delivery_id IS NOT NULL;
CREATE UNIQUE INDEX jobs_proposal_id_new ON jobs (proposal_id) WHERE proposal_id IS NOT NULL;
