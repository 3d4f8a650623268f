SELECT coalesce((SELECT json_build_object(
  'login', rolcanlogin,
  'rights', to_json(array_remove(ARRAY[
    CASE WHEN rolsuper THEN 'SUPERUSER' END, CASE WHEN rolcreaterole THEN 'CREATEROLE' END, CASE WHEN rolcreatedb THEN 'CREATEDB' END,
    CASE WHEN rolreplication THEN 'REPLICATION' END, CASE WHEN rolbypassrls THEN 'BYPASSRLS' END], NULL)),
  'member_of', (SELECT coalesce(json_agg(roleid::regrole::text ORDER BY roleid::regrole::text), '[]'::json) FROM pg_auth_members m WHERE m.member = r.oid),
  'owns', EXISTS (SELECT FROM pg_database WHERE datname = '{database}' AND datdba = r.oid),
  'connects', has_database_privilege(r.oid, (SELECT oid FROM pg_database WHERE datname = '{database}'), 'CONNECT'),
  'public', (SELECT EXISTS (SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) g WHERE g.grantee = 0 AND g.privilege_type = 'CONNECT')
    FROM pg_database WHERE datname = '{database}'),
  'others', (SELECT coalesce(json_agg(quote_ident(o.rolname) ORDER BY o.rolname), '[]'::json) FROM pg_roles o
    WHERE o.rolcanlogin AND NOT o.rolsuper AND o.oid <> r.oid)
) FROM pg_roles r WHERE rolname = '{role}'), 'null'::json)
