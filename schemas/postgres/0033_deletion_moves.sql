-- Whoever works on a deletion changes it only as it was when they read it: each change counts one up. An operator that
-- stood still meanwhile, or that had not heard that the same was asked for again, changes nothing.
ALTER TABLE deletion_job ADD COLUMN moves bigint NOT NULL DEFAULT 0;

-- Of a run or a user something may come after the work on a deletion has begun: who asks then gets another job. Nothing
-- comes of a project or an org.
-- Back, once no two unfinished jobs are for the same: ALTER TABLE deletion_job DROP COLUMN moves; DROP INDEX
-- deletion_job_same; and that index as in 0031.
DROP INDEX deletion_job_same;
CREATE UNIQUE INDEX deletion_job_same ON deletion_job (org_id, kind, target, coalesce(project_id, org_id))
WHERE state IN ('queued', 'running') AND (step = 'drain' OR kind IN ('project', 'org'));
