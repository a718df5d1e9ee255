-- Nothing is lost: functions only.

DROP FUNCTION settle_chunk(integer, smallint, integer, integer, integer, integer[], bytea);
DROP FUNCTION release_chunk(integer, smallint, integer, integer, integer, interval);
DROP FUNCTION hold_chunk(integer, smallint, integer, integer, integer, interval);
DROP FUNCTION claim_chunk(integer, smallint, integer, integer, text, interval);
DROP FUNCTION append_event(integer, bytea);
