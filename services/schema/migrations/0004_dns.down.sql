-- Loses what was asked besides, of whom, and what was answered, of DNS verdicts: SELECT FROM dns_results WHERE num_nonnulls(authority, agreement, registered, delegated, evidence) > 0
-- Loses DNS personas: SELECT FROM dns_personas
-- Loses answers to requests that may be repeated: SELECT FROM validation_requests
-- Made again: resolver_reports.

DROP FUNCTION withdraw_chunks(integer, smallint, integer, integer[], integer[], text);
DROP TABLE resolver_reports, validation_requests, dns_personas;
ALTER TABLE dns_results DROP authority, DROP agreement, DROP registered, DROP delegated, DROP evidence;
