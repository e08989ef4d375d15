-- Instances of the earlier platform as one List for kubectl (deploy/docs/migration.md):
--   psql -qAtX -v release=erp-1 -v class=starter -f deploy/migration/instances.sql "$EARLIER" > instances.json
-- Reads public.instances only. Archived rows stay where they are. No state is carried over but the end of a trial: each
-- tenant begins paused, so that nothing is made before its turn has come.
SELECT json_build_object('apiVersion', 'v1', 'kind', 'List', 'items', coalesce(json_agg(item ORDER BY org_code), '[]'))
FROM (
  SELECT org_code, json_build_object(
    'apiVersion', 'platform.dotmac.io/v1alpha1',
    'kind', 'Instance',
    'metadata', json_build_object(
      'name', trim(BOTH '-' FROM regexp_replace(lower(org_code), '[^a-z0-9]+', '-', 'g')),
      'annotations', json_build_object(
        'platform.dotmac.io/paused', 'true',
        'dotmac.io/earlier-instance-id', instance_id::text)),
    'spec', json_strip_nulls(json_build_object(
      'orgCode', org_code,
      'orgName', org_name,
      'placement', json_build_object(),
      'releaseRef', json_build_object('name', :'release'),
      'classRef', json_build_object('name', :'class'),
      'admin', json_build_object('email', admin_email, 'username', nullif(admin_username, '')),
      'settings', json_build_object(
        'sectorType', sector_type::text, 'accountingFramework', framework::text, 'currency', currency),
      'trial', CASE WHEN trial_expires_at > now() THEN json_build_object(
        'expiresAt', to_char(trial_expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')) END))
  ) AS item
  FROM instances
  WHERE archived_at IS NULL AND lower(status::text) <> 'archived'
) AS exported;
