WITH us AS (SELECT oid FROM pg_roles WHERE rolname = '{role}'), spaces AS (
  SELECT oid, quote_ident(nspname) AS name, nspowner FROM pg_namespace
  WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND nspowner <> 'pg_database_owner'::regrole
), public AS (
  SELECT oid, quote_ident(nspname) AS name FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
), members AS (
  SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), owned (place, kind, name, owner) AS (
  SELECT 1, 'SCHEMA', name, nspowner FROM spaces
    WHERE (('pg_namespace'::regclass)::oid, oid) NOT IN (SELECT classid, objid FROM members)
  UNION ALL SELECT 2, CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END,
      s.name || '.' || quote_ident(c.relname), c.relowner
    FROM pg_class c JOIN public s ON s.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'c') AND (('pg_class'::regclass)::oid, c.oid) NOT IN (SELECT classid, objid FROM members)
      -- The sequence of a column goes with its table.
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
        AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0 AND c.relkind = 'S')
  UNION ALL SELECT 3, CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, s.name || '.' || quote_ident(t.typname), t.typowner
    FROM pg_type t JOIN public s ON s.oid = t.typnamespace
    WHERE t.typtype IN ('e', 'd', 'r', 'b') AND NOT (t.typtype = 'b' AND t.typelem <> 0 AND t.typlen = -1)
      AND (('pg_type'::regclass)::oid, t.oid) NOT IN (SELECT classid, objid FROM members)
  UNION ALL SELECT 4, 'ROUTINE', s.name || '.' || quote_ident(p.proname) || '(' || pg_get_function_identity_arguments(p.oid) || ')', p.proowner
    FROM pg_proc p JOIN public s ON s.oid = p.pronamespace
    WHERE p.prokind <> 'a' AND (('pg_proc'::regclass)::oid, p.oid) NOT IN (SELECT classid, objid FROM members)
  UNION ALL SELECT 4, 'AGGREGATE', s.name || '.' || quote_ident(p.proname) || '('
      || coalesce(nullif(pg_get_function_identity_arguments(p.oid), ''), '*') || ')', p.proowner
    FROM pg_proc p JOIN public s ON s.oid = p.pronamespace
    WHERE p.prokind = 'a' AND (('pg_proc'::regclass)::oid, p.oid) NOT IN (SELECT classid, objid FROM members)
  UNION ALL SELECT 5, 'COLLATION', s.name || '.' || quote_ident(o.collname), o.collowner
    FROM pg_collation o JOIN public s ON s.oid = o.collnamespace
    WHERE (('pg_collation'::regclass)::oid, o.oid) NOT IN (SELECT classid, objid FROM members)
  UNION ALL SELECT 5, 'STATISTICS', s.name || '.' || quote_ident(o.stxname), o.stxowner
    FROM pg_statistic_ext o JOIN public s ON s.oid = o.stxnamespace
  UNION ALL SELECT 5, 'TEXT SEARCH CONFIGURATION', s.name || '.' || quote_ident(o.cfgname), o.cfgowner
    FROM pg_ts_config o JOIN public s ON s.oid = o.cfgnamespace
    WHERE (('pg_ts_config'::regclass)::oid, o.oid) NOT IN (SELECT classid, objid FROM members)
  UNION ALL SELECT 5, 'TEXT SEARCH DICTIONARY', s.name || '.' || quote_ident(o.dictname), o.dictowner
    FROM pg_ts_dict o JOIN public s ON s.oid = o.dictnamespace
    WHERE (('pg_ts_dict'::regclass)::oid, o.oid) NOT IN (SELECT classid, objid FROM members)
  UNION ALL SELECT 6, 'LARGE OBJECT', oid::text, lomowner FROM pg_largeobject_metadata
)
SELECT coalesce(json_agg('ALTER ' || kind || ' ' || name || ' OWNER TO ' || quote_ident('{role}') ORDER BY place, kind, name), '[]'::json)
FROM owned WHERE owner <> (SELECT oid FROM us)
