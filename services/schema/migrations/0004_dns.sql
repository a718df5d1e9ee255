-- DNS validation with evidence, personas and report cards.

ALTER TABLE dns_results
    -- Zone whose SOA spoke for a negative answer; null without one.
    ADD authority text,
    -- Number of domainflow.validation.v1.DnsAgreement; null when nobody else was asked.
    ADD agreement smallint,
    -- Of the registrable domain; null while unknown.
    ADD registered boolean,
    ADD delegated boolean,
    -- domainflow.validation.v1.DnsEvidence, as protobuf bytes; null where the columns say all there is.
    ADD evidence bytea;

CREATE TABLE dns_personas (
    id uuid PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    description text NOT NULL,
    -- domainflow.validation.v1.DnsSettings, as protobuf bytes.
    settings bytea NOT NULL,
    -- Goes up with every change.
    version bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now()
);

-- Answers to mutations of the validation service by request id (AIP-155), kept for a day.
CREATE TABLE validation_requests (
    request_id uuid PRIMARY KEY,
    method text NOT NULL,
    body_sha256 bytea NOT NULL,
    response bytea NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX validation_requests_create_time ON validation_requests (create_time);

-- What each process knows of each resolver it uses; replaced every few seconds, removed with its process or after a minute.
CREATE UNLOGGED TABLE resolver_reports (
    worker_id text NOT NULL,
    resolver text NOT NULL,
    score real NOT NULL,
    report_time timestamptz NOT NULL DEFAULT now(),
    -- domainflow.validation.v1.ResolverReport without report_time, as protobuf bytes.
    body bytea NOT NULL,
    PRIMARY KEY (worker_id, resolver)
);
CREATE INDEX resolver_reports_by_score ON resolver_reports (score, resolver, worker_id);

-- Takes verdicts back that rest on one resolver alone, which was found to lie: of the chunks given, each with the attempt that
-- settled it, those with a name that has an address (RESOLVED, WILDCARD) by its word only: nobody else asked, DISPUTED or
-- UNCONFIRMED.
-- Their results are removed and they are handed out again, as in redrive_dead_letter. No rows for a phase that is over.
CREATE FUNCTION withdraw_chunks(
    p_campaign integer, p_phase smallint, p_run integer, p_firsts integer[], p_attempts integer[], p_resolver text
) RETURNS TABLE (first_position integer, name_count integer, outcome_counts integer[])
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM share_turn(p_campaign);
    PERFORM FROM phases
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND status IN ('RUNNING', 'PAUSED')
    FOR SHARE;
    IF NOT FOUND OR p_phase <> 2 THEN
        RETURN;
    END IF;
    RETURN QUERY
    -- Materialized: the chunks are locked, in their order, before anything is changed.
    WITH settled AS MATERIALIZED (
        SELECT c.first_position, c.name_count, c.outcome_counts
        FROM unnest(p_firsts, p_attempts) AS w (first_position, attempt)
        JOIN chunks c ON c.campaign_no = p_campaign AND c.phase = p_phase AND c.run = p_run
            AND c.first_position = w.first_position
        WHERE c.state = 'done' AND c.attempt = w.attempt
        ORDER BY c.first_position
        FOR UPDATE OF c),
    tainted AS MATERIALIZED (
        SELECT s.* FROM settled s
        WHERE EXISTS (
            SELECT FROM dns_results r
            WHERE r.campaign_no = p_campaign AND r.run = p_run
              AND r.position >= s.first_position AND r.position < s.first_position + s.name_count
              AND r.verdict IN (1, 7) AND r.resolver = p_resolver AND coalesce(r.agreement, 0) IN (0, 3, 4))),
    removed AS (
        DELETE FROM dns_results r USING tainted t
        WHERE r.campaign_no = p_campaign AND r.run = p_run
          AND r.position >= t.first_position AND r.position < t.first_position + t.name_count)
    UPDATE chunks c SET state = 'ready', worker = NULL, claim_time = NULL, lease_expire_time = NULL, ready_time = NULL,
        done_time = NULL, outcome_counts = NULL, content_sha256 = NULL, failure_count = 0
    FROM tainted t
    WHERE c.campaign_no = p_campaign AND c.phase = p_phase AND c.run = p_run AND c.first_position = t.first_position
    RETURNING t.first_position, t.name_count, t.outcome_counts;
END
$$;
