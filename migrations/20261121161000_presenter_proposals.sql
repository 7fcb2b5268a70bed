-- What an account wants its TXT records to be published by, until a worker has tried it; the job try-presenter.

CREATE TABLE presenter_proposals (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id      bigint      NOT NULL REFERENCES accounts,
    domain_id       bigint      REFERENCES domains ON DELETE CASCADE,
    trial_domain_id bigint      NOT NULL REFERENCES domains ON DELETE CASCADE,
    settings        jsonb       NOT NULL CHECK (jsonb_typeof(settings) = 'object'),
    secret          text        CHECK (secret <> ''),
    proposed_at     timestamptz NOT NULL DEFAULT now(),
    refused_at      timestamptz,
    refused_because text,
    CONSTRAINT presenter_proposals_refused_says_why CHECK ((refused_at IS NULL) = (refused_because IS NULL)),
    CONSTRAINT presenter_proposals_refused_keeps_no_secret CHECK (refused_at IS NULL OR secret IS NULL)
);
CREATE UNIQUE INDEX presenter_proposals_of_account_key ON presenter_proposals (account_id) WHERE domain_id IS NULL;
CREATE UNIQUE INDEX presenter_proposals_of_domain_key ON presenter_proposals (domain_id);
CREATE INDEX presenter_proposals_of_trial_domain ON presenter_proposals (trial_domain_id);
COMMENT ON TABLE presenter_proposals IS
    'The newest configuration that was proposed through /v2 for an account or a domain and is not in force: not tried yet, or refused.';
COMMENT ON COLUMN presenter_proposals.id IS 'Internal key, and the payload of the job that tries it.';
COMMENT ON COLUMN presenter_proposals.account_id IS 'As presenter_configs.account_id.';
COMMENT ON COLUMN presenter_proposals.domain_id IS 'As presenter_configs.domain_id.';
COMMENT ON COLUMN presenter_proposals.trial_domain_id IS 'At whose challenge name it is tried.';
COMMENT ON COLUMN presenter_proposals.settings IS 'As presenter_configs.settings, where it goes once the trial succeeds.';
COMMENT ON COLUMN presenter_proposals.secret IS 'As presenter_configs.secret; forgotten when it is refused.';
COMMENT ON COLUMN presenter_proposals.proposed_at IS 'When it was proposed.';
COMMENT ON COLUMN presenter_proposals.refused_at IS 'When the trial failed; NULL: it is still to come.';
COMMENT ON COLUMN presenter_proposals.refused_because IS 'Why, in words for its account.';

ALTER TABLE jobs ADD COLUMN proposal_id bigint UNIQUE REFERENCES presenter_proposals ON DELETE CASCADE;
ALTER TABLE jobs DROP CONSTRAINT jobs_kind_check,
    ADD CONSTRAINT jobs_kind_check
        CHECK (kind IN ('poll-challenge', 'deliver-event', 'sweep', 'purge', 'renew-due', 'try-presenter')) NOT VALID;
ALTER TABLE jobs VALIDATE CONSTRAINT jobs_kind_check;
ALTER TABLE jobs ADD CONSTRAINT jobs_proposal_iff_try_presenter
    CHECK ((kind = 'try-presenter') = (proposal_id IS NOT NULL)) NOT VALID;
ALTER TABLE jobs VALIDATE CONSTRAINT jobs_proposal_iff_try_presenter;
DROP INDEX jobs_scheduled_once;
CREATE UNIQUE INDEX jobs_scheduled_once ON jobs (kind)
    WHERE order_id IS NULL AND delivery_id IS NULL AND proposal_id IS NULL;
COMMENT ON COLUMN jobs.kind IS
    'poll-challenge: one order, for its whole life. deliver-event: one delivery. try-presenter: one proposal. Others are scheduled, one row each in the fleet.';
COMMENT ON COLUMN jobs.proposal_id IS 'The proposal to try.';
