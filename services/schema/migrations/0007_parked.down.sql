-- Made again: parked_chunks, and with it chunks.park_count, waiting_count and put_off. Chunks that are set aside begin anew: their pages are
-- fetched again.

-- As in 0005_query.sql.
LOCK TABLE phases IN EXCLUSIVE MODE;
LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE;
SET LOCAL lock_timeout = '500ms';
LOCK TABLE phases IN ACCESS EXCLUSIVE MODE;

DROP TRIGGER forget_progress ON chunks;
DROP FUNCTION forget_progress();
-- As in 0003_control.sql and 0006_http.sql.
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
        revision)
    VALUES (p_campaign, p_phase, p_run, second, whole.last_position, whole.name_count - half, 'ready', whole.attempt,
        p_failure_count, whole.lost_count, whole.revision);
    RETURN second;
END
$$;
DROP FUNCTION park_chunk(integer, smallint, integer, integer, integer, interval, integer, bytea);
DROP TABLE parked_chunks;
ALTER TABLE chunks DROP park_count, DROP waiting_count, DROP put_off;
