-- The ledger's rules, as functions: campaign hands chunks out, workers claim, hold and settle them. Every pool uses the
-- same four, so "exactly once" is decided in one place.

-- Appends an event and returns its revision. Takes the campaign's row lock until the transaction ends, which is what
-- puts a campaign's events in commit order: call it last.
CREATE FUNCTION append_event(p_campaign integer, p_body bytea) RETURNS bigint
LANGUAGE sql AS $$
    WITH next AS (
        UPDATE campaigns SET revision = revision + 1 WHERE no = p_campaign RETURNING revision
    )
    INSERT INTO events (campaign_no, revision, body)
    SELECT p_campaign, revision, p_body FROM next
    RETURNING revision
$$;

-- Takes a chunk for one attempt. No row: it is done, held by somebody whose lease runs, or its phase does not run. The
-- phase's row is share-locked, so that a pause takes back every claim there is.
CREATE FUNCTION claim_chunk(
    p_campaign integer, p_phase smallint, p_run integer, p_first integer, p_worker text, p_lease interval
) RETURNS TABLE (attempt integer, name_count integer, configuration bytea)
LANGUAGE plpgsql AS $$
BEGIN
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
      AND c.state <> 'done'
      AND (c.claim_time IS NULL OR c.lease_expire_time <= now())
      AND k.no = c.campaign_no
    RETURNING c.attempt, c.name_count, k.configuration;
END
$$;

-- Keeps a claim alive. False: the claim is lost or the phase does not run any more; drop the work.
CREATE FUNCTION hold_chunk(
    p_campaign integer, p_phase smallint, p_run integer, p_first integer, p_attempt integer, p_lease interval
) RETURNS boolean
LANGUAGE sql AS $$
    WITH held AS (
        UPDATE chunks c SET lease_expire_time = now() + p_lease
        FROM phases p
        WHERE c.campaign_no = p_campaign AND c.phase = p_phase AND c.run = p_run AND c.first_position = p_first
          AND c.state = 'queued' AND c.attempt = p_attempt AND c.claim_time IS NOT NULL
          AND p.campaign_no = c.campaign_no AND p.phase = c.phase AND p.run = c.run AND p.status = 'RUNNING'
        RETURNING 1
    )
    SELECT EXISTS (SELECT FROM held)
$$;

-- Gives a claim back: the chunk is ready for anybody after p_delay. False: it was not ours any more.
CREATE FUNCTION release_chunk(
    p_campaign integer, p_phase smallint, p_run integer, p_first integer, p_attempt integer, p_delay interval
) RETURNS boolean
LANGUAGE sql AS $$
    WITH released AS (
        UPDATE chunks SET state = 'ready', worker = NULL, claim_time = NULL, lease_expire_time = NULL,
            ready_time = now() + p_delay
        WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND first_position = p_first
          AND state = 'queued' AND attempt = p_attempt AND claim_time IS NOT NULL
        RETURNING 1
    )
    SELECT EXISTS (SELECT FROM released)
$$;

-- Marks a chunk as settled and returns the time since its claim. No row: somebody else did it, the claim is lost, or the
-- phase does not run any more; then nothing may be stored. Raises when the counts are not those of all its names. Belongs in the transaction that stores the results, before
-- them. The phase's row is share-locked first: a pause or cancel waits for the commit, and nothing is settled after it.
-- Lock order everywhere: phases, chunks, campaigns.
CREATE FUNCTION settle_chunk(
    p_campaign integer, p_phase smallint, p_run integer, p_first integer, p_attempt integer,
    p_outcome_counts integer[], p_content_sha256 bytea
) RETURNS TABLE (elapsed interval)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM phases
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND status = 'RUNNING'
    FOR SHARE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF (SELECT sum(n) FROM unnest(p_outcome_counts) AS n) IS DISTINCT FROM (
        SELECT name_count FROM chunks
        WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND first_position = p_first
    ) THEN
        RAISE EXCEPTION 'outcomes % are not one for every name of the chunk', p_outcome_counts;
    END IF;
    RETURN QUERY
    UPDATE chunks c
    SET state = 'done', done_time = now(), lease_expire_time = NULL,
        outcome_counts = p_outcome_counts, content_sha256 = p_content_sha256
    WHERE c.campaign_no = p_campaign AND c.phase = p_phase AND c.run = p_run AND c.first_position = p_first
      AND c.state = 'queued' AND c.attempt = p_attempt AND c.claim_time IS NOT NULL
    RETURNING now() - c.claim_time;
END
$$;
