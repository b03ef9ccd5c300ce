-- +goose Up

-- The tenant of a user's first membership becomes the default, so that a later one, which any
-- tenant's administrator can add, does not move the user. Users with one membership get
-- their default here; of several memberships the first is unknown.
UPDATE users u
   SET default_tenant = m.tenant, version = nextval('iam_versions'), updated_at = now()
  FROM (SELECT user_id, min(tenant) AS tenant FROM memberships GROUP BY user_id HAVING count(*) = 1) m
 WHERE m.user_id = u.id AND u.default_tenant IS NULL;

-- +goose Down

-- Which defaults were set here is not known any more, and they do no harm.
SELECT 1;
