-- For the admin API's search by a prefix of a subject, slug or name, ignoring case.

-- +goose Up
CREATE INDEX users_subject_prefix_idx ON users (lower(subject) text_pattern_ops);
CREATE INDEX tenants_slug_prefix_idx ON tenants (lower(slug) text_pattern_ops);
CREATE INDEX tenants_name_prefix_idx ON tenants (lower(name) text_pattern_ops);

-- +goose Down
DROP INDEX tenants_name_prefix_idx;
DROP INDEX tenants_slug_prefix_idx;
DROP INDEX users_subject_prefix_idx;
