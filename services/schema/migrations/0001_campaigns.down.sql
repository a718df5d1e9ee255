-- Loses the campaigns, with all names and verdicts: SELECT FROM campaigns
-- Loses answers to requests that may be repeated: SELECT FROM requests
-- Made again: phases, chunks, events, domains, dns_results, uploads, upload_names go with their campaigns; workers by those that run.

DROP TABLE workers, requests, upload_names, uploads, dns_results, domains, events, chunks, phases, campaigns;
