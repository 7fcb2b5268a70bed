-- An index for the number of certificates by days to expiry; what the context of a job holds now.

-- Only what may still need a successor: a renewal that ended before the certificate did has brought one, or nobody wants it.
CREATE INDEX certificates_expiring ON certificates (not_after)
    WHERE state = 'issued' AND (renewal_ended_at IS NULL OR renewal_ended_at >= not_after);

COMMENT ON COLUMN jobs.trace_context IS
    'What enqueued or last woke it: {request_id, traceparent}, the latter as in W3C Trace Context, where that was traced.';
