WITH us AS (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
SELECT json_build_object(
  'version', current_setting('server_version_num')::int,
  'in_recovery', pg_is_in_recovery(),
  'superuser', (SELECT rolsuper FROM us),
  'data_directory', CASE WHEN (SELECT rolsuper FROM us) THEN current_setting('data_directory') END,
  'system_identifier', CASE WHEN (SELECT rolsuper FROM us) THEN (SELECT system_identifier::text FROM pg_control_system()) END,
  'user', current_user,
  'replicas', (SELECT coalesce(json_agg(application_name), '[]'::json) FROM pg_stat_replication),
  'databases', (SELECT json_agg(json_build_object(
    'name', d.datname,
    'oid', d.oid::bigint,
    'owner', pg_get_userbyid(d.datdba),
    'allow', d.datallowconn,
    'limit', d.datconnlimit,
    'comment', shobj_description(d.oid, 'pg_database'),
    'bytes', CASE WHEN (SELECT rolsuper FROM us) AND (d.datname = '{database}' OR shobj_description(d.oid, 'pg_database') LIKE 'reversible.deploy: %')
      THEN pg_database_size(d.oid) ELSE 0 END,
    'encoding', pg_encoding_to_char(d.encoding),
    'collate', d.datcollate,
    'ctype', d.datctype,
    'provider', coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'),
    'locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
    'icu_rules', to_jsonb(d) ->> 'daticurules',
    'collation_version', to_jsonb(d) ->> 'datcollversion',
    'actual_collation_version', pg_database_collation_actual_version(d.oid),
    'tablespace', (SELECT spcname FROM pg_tablespace t WHERE t.oid = d.dattablespace),
    'label', EXISTS (SELECT FROM pg_shseclabel l WHERE l.classoid = 'pg_database'::regclass AND l.objoid = d.oid),
    'sessions', (SELECT coalesce(json_agg(json_build_object('user', usename, 'application', coalesce(application_name, ''),
        'client', client_addr::text) ORDER BY pid), '[]'::json)
      FROM pg_stat_activity a WHERE a.datid = d.oid AND a.pid <> pg_backend_pid() AND a.backend_type <> 'autovacuum worker'),
    'slots', (SELECT coalesce(json_agg(slot_name ORDER BY slot_name), '[]'::json) FROM pg_replication_slots s WHERE s.datoid = d.oid),
    'prepared', (SELECT coalesce(json_agg(gid ORDER BY gid), '[]'::json) FROM pg_prepared_xacts x WHERE x.database = d.datname),
    'subscriptions', (SELECT coalesce(json_agg(subname ORDER BY subname), '[]'::json) FROM pg_subscription s WHERE s.subdbid = d.oid),
    'grants', CASE WHEN d.datacl IS NULL THEN NULL ELSE (SELECT coalesce(json_agg(json_build_object(
        'to', CASE WHEN g.grantee = 0 THEN NULL ELSE pg_get_userbyid(g.grantee) END,
        'privilege', g.privilege_type, 'grantable', g.is_grantable)), '[]'::json) FROM aclexplode(d.datacl) g) END,
    'settings', (SELECT coalesce(json_agg(json_build_object(
        'role', CASE WHEN r.setrole = 0 THEN NULL ELSE pg_get_userbyid(r.setrole) END,
        'name', split_part(c, '=', 1), 'value', substr(c, strpos(c, '=') + 1))), '[]'::json)
      FROM pg_db_role_setting r, unnest(r.setconfig) c WHERE r.setdatabase = d.oid)
  ) ORDER BY d.datname) FROM pg_database d)
)
