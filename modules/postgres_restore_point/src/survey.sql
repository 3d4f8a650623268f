WITH spaces AS (
  SELECT oid, quote_ident(nspname) AS name FROM pg_namespace
  WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
), relations AS (
  SELECT c.oid, c.relkind, s.name || '.' || quote_ident(c.relname) AS name, c.relrowsecurity, c.relforcerowsecurity, c.relispopulated
  FROM pg_class c JOIN spaces s ON s.oid = c.relnamespace
)
SELECT json_build_object(
  'schemas', (SELECT coalesce(json_agg(name), '[]'::json) FROM spaces),
  'relations', (SELECT coalesce(json_agg(name || ' ' || relkind::text
      || CASE WHEN relrowsecurity THEN ' rls' ELSE '' END || CASE WHEN relforcerowsecurity THEN ' forced' ELSE '' END
      || CASE WHEN relispopulated THEN '' ELSE ' empty' END), '[]'::json)
    FROM relations WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')),
  'columns', (SELECT coalesce(json_agg(r.name || '.' || quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
      || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END || CASE WHEN a.atthasdef THEN ' default' ELSE '' END
      || ' ' || a.attidentity::text || a.attgenerated::text), '[]'::json)
    FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid
    WHERE r.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND a.attnum > 0 AND NOT a.attisdropped),
  'indexes', (SELECT coalesce(json_agg(r.name || CASE WHEN i.indisunique THEN ' unique' ELSE '' END), '[]'::json)
    FROM relations r JOIN pg_index i ON i.indexrelid = r.oid WHERE i.indisvalid),
  'constraints', (SELECT coalesce(json_agg(coalesce(r.name, 'type ' || c.contypid::regtype::text) || '.' || quote_ident(c.conname)
      || ' ' || c.contype::text || CASE WHEN c.convalidated THEN '' ELSE ' not valid' END), '[]'::json)
    FROM pg_constraint c JOIN spaces s ON s.oid = c.connamespace LEFT JOIN relations r ON r.oid = c.conrelid),
  'triggers', (SELECT coalesce(json_agg(r.name || '.' || quote_ident(t.tgname) || ' ' || t.tgenabled::text), '[]'::json)
    FROM pg_trigger t JOIN relations r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal),
  'policies', (SELECT coalesce(json_agg(r.name || '.' || quote_ident(p.polname) || ' ' || p.polcmd::text), '[]'::json)
    FROM pg_policy p JOIN relations r ON r.oid = p.polrelid),
  'functions', (SELECT coalesce(json_agg(s.name || '.' || quote_ident(p.proname) || '(' || pg_get_function_identity_arguments(p.oid) || ') '
      || p.prokind::text), '[]'::json)
    FROM pg_proc p JOIN spaces s ON s.oid = p.pronamespace),
  'types', (SELECT coalesce(json_agg(s.name || '.' || quote_ident(t.typname) || ' ' || t.typtype::text || coalesce(' '
      || (SELECT string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid), '')), '[]'::json)
    FROM pg_type t JOIN spaces s ON s.oid = t.typnamespace WHERE t.typtype IN ('e', 'd', 'r')),
  'extensions', (SELECT coalesce(json_agg(quote_ident(extname) || ' ' || extversion), '[]'::json) FROM pg_extension),
  'publications', (SELECT coalesce(json_agg(quote_ident(pubname)), '[]'::json) FROM pg_publication),
  'large objects', (SELECT json_build_array(count(*)::text) FROM pg_largeobject_metadata),
  '-tables', (SELECT coalesce(json_agg(name ORDER BY name), '[]'::json) FROM relations WHERE relkind = 'r')
)
