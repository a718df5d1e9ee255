-- Chunks that are set aside while some of their names wait, with what is finished of them.

-- As in 0005_query.sql.
LOCK TABLE phases IN EXCLUSIVE MODE;
LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE;
SET LOCAL lock_timeout = '500ms';
LOCK TABLE phases IN ACCESS EXCLUSIVE MODE;

ALTER TABLE chunks
    -- Attempts that ended with the chunk being set aside: neither failures nor repetitions.
    ADD park_count integer NOT NULL DEFAULT 0,
    -- Names that were not finished then, the last time; null: never set aside, all of them.
    ADD waiting_count integer,
    -- How long it is set aside for, until somebody takes it up again: whatever the clocks say, nobody waits longer.
    ADD put_off interval;

-- What is finished of an open chunk, and how far the names are that wait: a row for each time that it was set aside, with what came since the
-- last one. Written by park_chunk; removed when the chunk is done, and in portions some time after its run is over:
-- together they may have gigabytes.
CREATE TABLE parked_chunks (
    campaign_no integer NOT NULL,
    phase smallint NOT NULL,
    run integer NOT NULL,
    first_position integer NOT NULL,
    -- The claim that ended so.
    attempt integer NOT NULL,
    -- services/validation/parked.py.
    progress bytea NOT NULL,
    PRIMARY KEY (campaign_no, phase, run, first_position, attempt)
);
-- Written once and read once: not worth compressing.
ALTER TABLE parked_chunks ALTER progress SET STORAGE EXTERNAL;

-- Gives a claim back whose names are finished but for p_waiting_count, and keeps what is known: the chunk is ready for anybody after p_delay.
-- False: it was not ours any more, or the phase does not run; then nothing is kept. Locks as settle_chunk does.
CREATE FUNCTION park_chunk(
    p_campaign integer, p_phase smallint, p_run integer, p_first integer, p_attempt integer,
    p_delay interval, p_waiting_count integer, p_progress bytea
) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM share_turn(p_campaign);
    PERFORM FROM phases
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND status = 'RUNNING'
    FOR SHARE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE chunks SET state = 'ready', worker = NULL, claim_time = NULL, lease_expire_time = NULL, ready_time = now() + p_delay,
        put_off = p_delay, waiting_count = p_waiting_count, park_count = park_count + 1
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND first_position = p_first
      AND state = 'queued' AND attempt = p_attempt AND claim_time IS NOT NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO parked_chunks (campaign_no, phase, run, first_position, attempt, progress)
    VALUES (p_campaign, p_phase, p_run, p_first, p_attempt, p_progress);
    RETURN true;
END
$$;

-- As before; but not what is set aside until the dispatcher has ended the delay, which sets ready_time to null: a task that was delivered twice, or was
-- late, would bring the chunk back before its names are due.
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
    SET state = 'queued', attempt = c.attempt + 1, worker = p_worker, ready_time = NULL, put_off = NULL,
        claim_time = now(), lease_expire_time = now() + p_lease
    FROM campaigns k
    WHERE c.campaign_no = p_campaign AND c.phase = p_phase AND c.run = p_run AND c.first_position = p_first
      AND c.state <> 'done' AND c.claim_time IS NULL AND (c.ready_time IS NULL OR c.put_off IS NULL)
      AND k.no = c.campaign_no
    RETURNING c.attempt, c.name_count, k.configuration;
END
$$;

-- As before; what is kept of the whole goes to both halves, and whoever reads it takes what is of its own names.
CREATE OR REPLACE FUNCTION split_chunk(
    p_campaign integer, p_phase smallint, p_run integer, p_first integer, p_attempt integer, p_failure_count integer
) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    whole chunks;
    half integer;
    second integer;
BEGIN
    SELECT * INTO whole FROM chunks
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND first_position = p_first
      AND state = 'queued' AND attempt = p_attempt AND claim_time IS NOT NULL AND name_count > 1
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    half := whole.name_count / 2;
    IF whole.last_position IS NULL THEN
        second := p_first + half;
    ELSE
        SELECT c.position INTO STRICT second
        FROM phases p, candidate_positions(p_campaign, p_phase, p.source_run, p_first, whole.last_position, half + 1) AS c (position)
        WHERE p.campaign_no = p_campaign AND p.phase = p_phase
        ORDER BY c.position DESC LIMIT 1;
    END IF;
    UPDATE chunks SET name_count = half, state = 'ready', worker = NULL, claim_time = NULL, lease_expire_time = NULL,
        ready_time = NULL, failure_count = p_failure_count,
        last_position = CASE WHEN whole.last_position IS NOT NULL THEN second - 1 END
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND first_position = p_first;
    INSERT INTO chunks (campaign_no, phase, run, first_position, last_position, name_count, state, attempt, failure_count, lost_count,
        revision, park_count, waiting_count)
    VALUES (p_campaign, p_phase, p_run, second, whole.last_position, whole.name_count - half, 'ready', whole.attempt,
        p_failure_count, whole.lost_count, whole.revision, whole.park_count, whole.waiting_count);
    IF whole.park_count > 0 THEN
        INSERT INTO parked_chunks (campaign_no, phase, run, first_position, attempt, progress)
        SELECT p.campaign_no, p.phase, p.run, second, p.attempt, p.progress FROM parked_chunks p
        WHERE p.campaign_no = p_campaign AND p.phase = p_phase AND p.run = p_run AND p.first_position = p_first;
    END IF;
    RETURN second;
END
$$;

-- A trigger, since services of the version before settle chunks too.
CREATE FUNCTION forget_progress() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM parked_chunks
    WHERE campaign_no = NEW.campaign_no AND phase = NEW.phase AND run = NEW.run AND first_position = NEW.first_position;
    RETURN NULL;
END
$$;
CREATE TRIGGER forget_progress AFTER UPDATE OF state ON chunks
    FOR EACH ROW WHEN (NEW.state = 'done' AND NEW.park_count > 0) EXECUTE FUNCTION forget_progress();
