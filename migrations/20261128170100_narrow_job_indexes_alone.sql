-- The indexes of the file before take the place and the names of those that all jobs are in.

ALTER TABLE jobs DROP CONSTRAINT jobs_delivery_id_key, DROP CONSTRAINT jobs_proposal_id_key;
ALTER INDEX jobs_delivery_id_new RENAME TO jobs_delivery_id_key;
ALTER INDEX jobs_proposal_id_new RENAME TO jobs_proposal_id_key;
