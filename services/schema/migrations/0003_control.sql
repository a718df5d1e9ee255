-- The control plane in full: versions for etags, priorities and rate limits, archive and deletion, taken ranges of patterns,
-- dead letters, pools, the suite's own history. Code of the version before runs on these tables.

ALTER TABLE campaigns
    -- What the etag is made of: grows with every change that a caller can see and that is not progress.
    ADD version bigint NOT NULL DEFAULT 1,
    ADD priority text NOT NULL DEFAULT 'NORMAL' CHECK (priority IN ('HIGH', 'NORMAL', 'LOW')),
    -- Names handed to the workers per second at most; 0: no limit.
    ADD name_rate_limit integer NOT NULL DEFAULT 0 CHECK (name_rate_limit >= 0),
    ADD archive_time timestamptz,
    -- Set when its deletion was asked for.
    ADD delete_time timestamptz,
    -- The first phase that is neither completed nor skipped, or the last one, and its status: `phases` says it too, but
    -- not to an index.
    ADD current_phase smallint NOT NULL DEFAULT 1,
    ADD status text NOT NULL DEFAULT 'CONFIGURED',
    -- Events up to this revision are not kept.
    ADD forgotten_revision bigint NOT NULL DEFAULT 0;

UPDATE campaigns k SET current_phase = p.phase, status = p.status
FROM (
    SELECT DISTINCT ON (campaign_no) campaign_no, phase, status FROM phases
    ORDER BY campaign_no, status IN ('COMPLETED', 'SKIPPED'),
        CASE WHEN status IN ('COMPLETED', 'SKIPPED') THEN -phase ELSE phase END
) p
WHERE p.campaign_no = k.no;

CREATE INDEX campaigns_by_create_time ON campaigns (create_time, no);
CREATE INDEX campaigns_by_name ON campaigns (name, no);
CREATE INDEX campaigns_by_update_time ON campaigns (update_time, no);
CREATE INDEX campaigns_by_name_count ON campaigns (name_count, no);
CREATE INDEX campaigns_by_status ON campaigns (status, no);

ALTER TABLE phases
    -- Names asked for that the pattern did not have any more.
    ADD missing_count bigint NOT NULL DEFAULT 0;

ALTER TABLE chunks
    -- Attempts that ended with an error of their own, and attempts whose worker was not heard of again.
    ADD failure_count integer NOT NULL DEFAULT 0,
    ADD lost_count integer NOT NULL DEFAULT 0;
CREATE INDEX chunks_delayed ON chunks (campaign_no, phase, run) WHERE state = 'ready' AND ready_time IS NOT NULL;

-- The two below keep those who settle from shutting a pause out. Whoever shares a row's lock goes in before whoever waits for
-- it alone, for ever when they are many; here everybody waits in line. Taken first of all locks, and until the transaction
-- ends: shared by whoever works on a phase as long as it runs, alone by whoever is to change the phases.
CREATE FUNCTION share_turn(p_campaign integer) RETURNS void
LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock_shared(1, p_campaign)
$$;
CREATE FUNCTION take_turn(p_campaign integer) RETURNS void
LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(1, p_campaign)
$$;

-- Who decides now that a lease is over: the dispatcher, by its own monotonic clock, when lease_expire_time has not changed
-- for that long. The database's clock may be set forward or back without any effect.
CREATE OR REPLACE FUNCTION claim_chunk(
    p_campaign integer, p_phase smallint, p_run integer, p_first integer, p_worker text, p_lease interval
) RETURNS TABLE (attempt integer, name_count integer, configuration bytea)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM share_turn(p_campaign);
    PERFORM FROM phases
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND status = 'RUNNING'
    FOR SHARE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY
    UPDATE chunks c
    SET state = 'queued', attempt = c.attempt + 1, worker = p_worker, ready_time = NULL,
        claim_time = now(), lease_expire_time = now() + p_lease
    FROM campaigns k
    WHERE c.campaign_no = p_campaign AND c.phase = p_phase AND c.run = p_run AND c.first_position = p_first
      AND c.state <> 'done' AND c.claim_time IS NULL
      AND k.no = c.campaign_no
    RETURNING c.attempt, c.name_count, k.configuration;
END
$$;

-- As before; but the counts are compared only when the claim is the newest: a chunk that was split since has fewer names.
CREATE OR REPLACE FUNCTION settle_chunk(
    p_campaign integer, p_phase smallint, p_run integer, p_first integer, p_attempt integer,
    p_outcome_counts integer[], p_content_sha256 bytea
) RETURNS TABLE (elapsed interval)
LANGUAGE plpgsql AS $$
DECLARE
    names integer;
    took interval;
BEGIN
    PERFORM share_turn(p_campaign);
    PERFORM FROM phases
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND status = 'RUNNING'
    FOR SHARE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE chunks c
    SET state = 'done', done_time = now(), lease_expire_time = NULL,
        outcome_counts = p_outcome_counts, content_sha256 = p_content_sha256
    WHERE c.campaign_no = p_campaign AND c.phase = p_phase AND c.run = p_run AND c.first_position = p_first
      AND c.state = 'queued' AND c.attempt = p_attempt AND c.claim_time IS NOT NULL
    RETURNING c.name_count, now() - c.claim_time INTO names, took;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF (SELECT sum(n) FROM unnest(p_outcome_counts) AS n) IS DISTINCT FROM names THEN
        RAISE EXCEPTION 'outcomes % are not one for every name of the chunk', p_outcome_counts;
    END IF;
    RETURN QUERY SELECT took;
END
$$;

-- Counts a failure and gives the claim back: the chunk is ready for anybody after p_delay. False: it was not ours any more.
CREATE FUNCTION fail_chunk(
    p_campaign integer, p_phase smallint, p_run integer, p_first integer, p_attempt integer, p_delay interval
) RETURNS boolean
LANGUAGE sql AS $$
    WITH failed AS (
        UPDATE chunks SET state = 'ready', worker = NULL, claim_time = NULL, lease_expire_time = NULL,
            ready_time = now() + p_delay, failure_count = failure_count + 1
        WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND first_position = p_first
          AND state = 'queued' AND attempt = p_attempt AND claim_time IS NOT NULL
        RETURNING 1
    )
    SELECT EXISTS (SELECT FROM failed)
$$;

-- Replaces a claimed chunk by its two halves, both ready and with p_failure_count failures to their name. Returns the second half's
-- first position; null: the claim was not ours any more, or there is one name only.
CREATE FUNCTION split_chunk(
    p_campaign integer, p_phase smallint, p_run integer, p_first integer, p_attempt integer, p_failure_count integer
) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    whole chunks;
    half integer;
BEGIN
    SELECT * INTO whole FROM chunks
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND first_position = p_first
      AND state = 'queued' AND attempt = p_attempt AND claim_time IS NOT NULL AND name_count > 1
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    half := whole.name_count / 2;
    UPDATE chunks SET name_count = half, state = 'ready', worker = NULL, claim_time = NULL, lease_expire_time = NULL,
        ready_time = NULL, failure_count = p_failure_count
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND first_position = p_first;
    INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state, attempt, failure_count, lost_count)
    VALUES (p_campaign, p_phase, p_run, p_first + half, whole.name_count - half, 'ready', whole.attempt, p_failure_count,
        whole.lost_count);
    RETURN p_first + half;
END
$$;

-- A pattern by its identity: lengths, ordered distinct characters, constant, ordered TLDs. Whoever takes names of it holds
-- this row's lock.
CREATE TABLE patterns (
    id bytea PRIMARY KEY CHECK (octet_length(id) = 32)
);

-- Names that campaigns have taken, each a range of offsets. They stay taken when the campaign is deleted.
CREATE TABLE reservations (
    campaign_id uuid PRIMARY KEY,
    pattern_id bytea NOT NULL REFERENCES patterns (id),
    first_offset bigint NOT NULL CHECK (first_offset >= 0),
    name_count bigint NOT NULL CHECK (name_count >= 0),
    create_time timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX reservations_by_end ON reservations (pattern_id, (first_offset + name_count)) WHERE name_count > 0;

-- The first lines of each upload that were no DNS names, so that a cut stream loses no report.
CREATE TABLE upload_rejections (
    campaign_no integer NOT NULL REFERENCES campaigns (no) ON DELETE CASCADE,
    -- Number of the line in the list, from 0.
    line_offset bigint NOT NULL,
    line text NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (campaign_no, line_offset)
);

CREATE TABLE dead_letters (
    campaign_no integer NOT NULL,
    phase smallint NOT NULL,
    run integer NOT NULL,
    position integer NOT NULL,
    name text COLLATE "C" NOT NULL,
    cause text NOT NULL,
    failure_count integer NOT NULL,
    state text NOT NULL DEFAULT 'OPEN' CHECK (state IN ('OPEN', 'REDRIVEN', 'DISCARDED')),
    create_time timestamptz NOT NULL DEFAULT now(),
    resolve_time timestamptz,
    resolve_reason text NOT NULL DEFAULT '',
    PRIMARY KEY (campaign_no, phase, run, position)
);
CREATE INDEX dead_letters_newest ON dead_letters (campaign_no DESC, phase, run, position);

-- Takes back the verdict on one dead letter, so that its name, a chunk of its own, is handed out again. False: there is no
-- open letter. The result's row is removed here, in the transaction that opens the chunk: a name has one verdict at most.
CREATE FUNCTION redrive_dead_letter(
    p_campaign integer, p_phase smallint, p_run integer, p_position integer, p_reason text
) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE dead_letters SET state = 'REDRIVEN', resolve_time = now(), resolve_reason = p_reason
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND position = p_position AND state = 'OPEN';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE chunks SET state = 'ready', worker = NULL, claim_time = NULL, lease_expire_time = NULL, ready_time = NULL,
        done_time = NULL, outcome_counts = NULL, content_sha256 = NULL, failure_count = 0
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND first_position = p_position
      AND name_count = 1 AND state = 'done';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the dead letter at position % has no chunk of its own', p_position;
    END IF;
    IF p_phase = 2 THEN
        DELETE FROM dns_results WHERE campaign_no = p_campaign AND run = p_run AND position = p_position;
    END IF;
    RETURN true;
END
$$;

ALTER TABLE workers
    -- domainflow.validation.v1.WorkerLoad, as protobuf bytes.
    ADD load bytea NOT NULL DEFAULT '';

-- The decided size of each pool on each machine.
CREATE TABLE pools (
    pool text NOT NULL,
    host text NOT NULL,
    process_count integer NOT NULL,
    task_limit integer NOT NULL,
    min_process_count integer NOT NULL,
    max_process_count integer NOT NULL,
    reason text NOT NULL,
    decide_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pool, host)
);

-- The suite's own history: as `events`, with one counter for all.
CREATE TABLE system_events (
    revision bigint PRIMARY KEY,
    create_time timestamptz NOT NULL DEFAULT now(),
    -- domainflow.campaign.v1.SystemEvent without revision and create_time, as protobuf bytes.
    body bytea NOT NULL
);
CREATE TABLE system_revision (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    revision bigint NOT NULL,
    -- Events up to this revision are not kept.
    forgotten_revision bigint NOT NULL DEFAULT 0
);
INSERT INTO system_revision (revision) VALUES (0);

CREATE FUNCTION append_system_event(p_body bytea) RETURNS bigint
LANGUAGE sql AS $$
    WITH next AS (
        UPDATE system_revision SET revision = revision + 1 RETURNING revision
    )
    INSERT INTO system_events (revision, body) SELECT revision, p_body FROM next
    RETURNING revision
$$;

-- Deletions on their way and, for a while, those that are over.
CREATE TABLE deletions (
    campaign_no integer PRIMARY KEY,
    campaign_id uuid NOT NULL UNIQUE,
    request_time timestamptz NOT NULL DEFAULT now(),
    row_count bigint NOT NULL,
    deleted_count bigint NOT NULL DEFAULT 0,
    finish_time timestamptz
);
