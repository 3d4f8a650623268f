WITH members AS (
  SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), spaces AS (
  SELECT oid, quote_ident(nspname) AS name FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
), relations AS (
  SELECT c.*, s.name || '.' || quote_ident(c.relname) AS name FROM pg_class c JOIN spaces s ON s.oid = c.relnamespace
  WHERE (('pg_class'::regclass)::oid, c.oid) NOT IN (SELECT classid, objid FROM members)
)
SELECT json_build_object(
  'schemas', (SELECT json_object_agg(name, '') FROM spaces),
  'extensions', (SELECT json_object_agg(quote_ident(extname), extversion) FROM pg_extension),
  'tables', (SELECT json_object_agg(name, concat_ws(' ',
      CASE relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'f' THEN 'foreign table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'type' END,
      CASE relpersistence WHEN 'u' THEN 'unlogged' END, pg_get_expr(relpartbound, oid), CASE WHEN relkind = 'p' THEN pg_get_partkeydef(oid) END,
      CASE WHEN relrowsecurity THEN 'row security' END, CASE WHEN relforcerowsecurity THEN 'forced' END, reloptions::text,
      CASE WHEN relkind IN ('v', 'm') THEN md5(pg_get_viewdef(oid)) END))
    FROM relations WHERE relkind IN ('r', 'p', 'f', 'v', 'm', 'c')),
  'columns', (SELECT json_object_agg(r.name || '.' || quote_ident(a.attname), concat_ws(' ', format_type(a.atttypid, a.atttypmod),
      CASE WHEN a.attnotnull THEN 'not null' END, 'default ' || pg_get_expr(d.adbin, d.adrelid),
      CASE a.attidentity WHEN 'a' THEN 'identity always' WHEN 'd' THEN 'identity by default' END, CASE WHEN a.attgenerated <> '' THEN 'generated' END,
      CASE WHEN a.attcollation <> t.typcollation THEN 'collation ' || a.attcollation::regcollation::text END))
    FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid JOIN pg_type t ON t.oid = a.atttypid
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE r.relkind IN ('r', 'p', 'f', 'v', 'm', 'c') AND a.attnum > 0 AND NOT a.attisdropped),
  'constraints', (SELECT json_object_agg(coalesce(r.name, c.contypid::regtype::text) || '.' || quote_ident(c.conname),
      pg_get_constraintdef(c.oid) || CASE WHEN c.convalidated THEN '' ELSE ' not valid' END)
    FROM pg_constraint c JOIN spaces s ON s.oid = c.connamespace LEFT JOIN relations r ON r.oid = c.conrelid),
  'indexes', (SELECT json_object_agg(r.name, pg_get_indexdef(i.indexrelid) || CASE WHEN i.indisvalid THEN '' ELSE ' invalid' END)
    FROM relations r JOIN pg_index i ON i.indexrelid = r.oid),
  'sequences', (SELECT json_object_agg(r.name, concat_ws(' ', s.seqtypid::regtype, 'start', s.seqstart, 'increment', s.seqincrement,
      'from', s.seqmin, 'to', s.seqmax, CASE WHEN s.seqcycle THEN 'cycle' END))
    FROM relations r JOIN pg_sequence s ON s.seqrelid = r.oid),
  'functions', (SELECT json_object_agg(s.name || '.' || quote_ident(p.proname) || '(' || pg_get_function_identity_arguments(p.oid) || ')',
      md5(concat_ws(' ', p.prokind, l.lanname, pg_get_function_result(p.oid), pg_get_function_arguments(p.oid), p.provolatile, p.prosecdef, p.proisstrict,
        p.proleakproof, p.proparallel, p.proconfig::text, p.prosrc, p.probin, pg_get_function_sqlbody(p.oid))))
    FROM pg_proc p JOIN spaces s ON s.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
    WHERE (('pg_proc'::regclass)::oid, p.oid) NOT IN (SELECT classid, objid FROM members)),
  'triggers', (SELECT json_object_agg(r.name || '.' || quote_ident(t.tgname), pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text)
    FROM pg_trigger t JOIN relations r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal),
  'policies', (SELECT json_object_agg(r.name || '.' || quote_ident(p.polname), concat_ws(' ', p.polcmd, p.polpermissive, p.polroles::regrole[]::text,
      pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)))
    FROM pg_policy p JOIN relations r ON r.oid = p.polrelid),
  'types', (SELECT json_object_agg(s.name || '.' || quote_ident(t.typname), concat_ws(' ', t.typtype,
      (SELECT string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
      CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END, CASE WHEN t.typnotnull THEN 'not null' END, t.typdefault))
    FROM pg_type t JOIN spaces s ON s.oid = t.typnamespace
    WHERE t.typtype IN ('e', 'd', 'r') AND (('pg_type'::regclass)::oid, t.oid) NOT IN (SELECT classid, objid FROM members)),
  'revisions', (SELECT json_object_agg(name, md5(query_to_xml(format('SELECT t::text COLLATE "C" AS t FROM ONLY %s t ORDER BY 1', name), true, false, '')::text))
    FROM relations WHERE relkind = 'r' AND relname = ANY ('{{revisions}}'))
)
