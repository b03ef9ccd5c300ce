-- +goose Up

-- The first membership of a user makes its tenant the default one, so that no later one,
-- which any tenant's administrator can add, changes where the user is. Users with one
-- membership get it here; of several it is not known which came first.
UPDATE users u
   SET default_tenant = m.tenant, version = nextval('iam_versions'), updated_at = now()
  FROM (SELECT user_id, min(tenant) AS tenant FROM memberships GROUP BY user_id HAVING count(*) = 1) m
 WHERE m.user_id = u.id AND u.default_tenant IS NULL;

-- +goose Down

-- Which defaults were set here is not known any more, and they do no harm.
SELECT 1;
