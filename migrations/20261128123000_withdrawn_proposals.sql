-- A proposal that was withdrawn after a worker had begun to try it stays until what the trial wrote is removed.

ALTER TABLE presenter_proposals ADD COLUMN withdrawn_at timestamptz,
    ADD CONSTRAINT presenter_proposals_withdrawn_is_refused CHECK (withdrawn_at IS NULL OR refused_at IS NOT NULL),
    DROP CONSTRAINT presenter_proposals_refused_keeps_no_secret,
    ADD CONSTRAINT presenter_proposals_refused_keeps_no_secret
        CHECK (refused_at IS NULL OR secret IS NULL OR withdrawn_at IS NOT NULL),
    DROP CONSTRAINT presenter_proposals_refused_keeps_no_sealed_secret,
    ADD CONSTRAINT presenter_proposals_refused_keeps_no_sealed_secret
        CHECK (refused_at IS NULL OR secret_sealed IS NULL OR withdrawn_at IS NOT NULL);
DROP INDEX presenter_proposals_of_account_key;
DROP INDEX presenter_proposals_of_domain_key;
CREATE UNIQUE INDEX presenter_proposals_of_account_key ON presenter_proposals (account_id)
    WHERE domain_id IS NULL AND withdrawn_at IS NULL;
CREATE UNIQUE INDEX presenter_proposals_of_domain_key ON presenter_proposals (domain_id) WHERE withdrawn_at IS NULL;
CREATE INDEX presenter_proposals_of_domain ON presenter_proposals (domain_id);
COMMENT ON TABLE presenter_proposals IS
    'Configurations that were proposed through /v2 for an account or a domain and are not in force: the newest, not tried yet or refused; and those before it whose trial may have left something.';
COMMENT ON COLUMN presenter_proposals.secret IS 'As presenter_configs.secret; forgotten when it is refused, and kept for a trial''s removal.';
COMMENT ON COLUMN presenter_proposals.refused_at IS
    'When the trial failed; NULL: it is still to come. Set with withdrawn_at too, so that no release tries it.';
COMMENT ON COLUMN presenter_proposals.withdrawn_at IS
    'When a newer one, or none, took its place during its trial; it goes when what that wrote is removed. NULL: it is the newest.';
COMMENT ON COLUMN jobs.lane IS
    '0 somebody waits, 1 polls and later steps, 2 the scheduled jobs, 3 deliveries and trials of presenters. One of an older release is in lane 2.';
