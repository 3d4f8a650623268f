WITH expressions AS (
  SELECT 'the constraint ' || quote_ident(conname) || ' of ' || CASE conrelid WHEN 0 THEN contypid::regtype::text ELSE conrelid::regclass::text END AS what,
    conbin::text AS tree
  FROM pg_constraint WHERE contype = 'c'
  UNION ALL
  SELECT 'the generated column ' || quote_ident(a.attname) || ' of ' || d.adrelid::regclass, d.adbin::text
  FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE a.attgenerated <> ''
  UNION ALL
  SELECT 'the partition key of ' || partrelid::regclass, partexprs::text FROM pg_partitioned_table WHERE partexprs IS NOT NULL
  UNION ALL
  -- The planner evaluates those that have only constants as arguments, for whoever reads the table.
  SELECT 'the index ' || indexrelid::regclass, concat(indexprs, ' ', indpred) FROM pg_index WHERE indexprs IS NOT NULL OR indpred IS NOT NULL
  UNION ALL
  SELECT 'the statistics ' || quote_ident(stxname) || ' of ' || stxrelid::regclass, stxexprs::text FROM pg_statistic_ext WHERE stxexprs IS NOT NULL
), calls AS (
  -- All that an expression can call is in its tree, which is text that no name in it can imitate.
  SELECT what, (regexp_matches(tree, ':(?:funcid|opfuncid) (\d+)', 'g'))[1]::oid AS function FROM expressions
  UNION
  SELECT e.what, o.oprcode FROM (SELECT what, (regexp_matches(tree, ':opno (\d+)', 'g'))[1]::oid AS operator FROM expressions) e
    JOIN pg_operator o ON o.oid = e.operator
  UNION
  -- Foreign keys are checked with them.
  SELECT 'the cast from ' || castsource::regtype || ' to ' || casttarget::regtype, castfunc FROM pg_cast WHERE castcontext = 'i' AND oid >= 16384
)
SELECT json_build_object(
  'extensions', (SELECT json_agg(json_build_object('name', e.extname, 'version', e.extversion, 'default', a.default_version))
    FROM pg_extension e LEFT JOIN pg_available_extensions a ON a.name = e.extname),
  'servers', (SELECT coalesce(json_agg(srvname), '[]'::json) FROM pg_foreign_server),
  'event_triggers', (SELECT coalesce(json_agg(evtname), '[]'::json) FROM pg_event_trigger),
  'calls', (SELECT coalesce(json_agg(json_build_object('what', c.what, 'function', p.oid::regprocedure::text, 'owner', r.rolname, 'is_builtin', r.rolsuper)
      ORDER BY c.what), '[]'::json)
    FROM calls c JOIN pg_proc p ON p.oid = c.function JOIN pg_roles r ON r.oid = p.proowner
    WHERE NOT r.rolsuper
      -- What comes with PostgreSQL can be called by everybody, with an argument that is a query of theirs.
      OR p.oid < 16384 AND (p.proname ~ '_to_xml'
        OR p.provolatile = 'v' AND p.proname NOT IN ('clock_timestamp', 'gen_random_uuid', 'random', 'timeofday')))
)
