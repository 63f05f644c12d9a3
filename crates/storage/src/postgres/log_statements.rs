//! The statements that write a batch of changes to logs, whose rows in `log` are locked.

/// Adds entries, and notes it in their logs. If nothing is undelivered then, the mark moves over
/// them.
pub(super) const APPEND: &str = "
    WITH added AS (
        INSERT INTO entry (account, id, peer, at, stanza, pending, archived, peer_hash)
        SELECT c.account, c.id, c.peer, m.at, m.stanza, c.pending, c.archived, c.hash
        FROM unnest($1::bigint[], $2::text[],
            $3::bigint[], $4::bigint[], $5::text[], $6::int[], $7::boolean[], $8::boolean[],
            $9::bigint[], $10::bigint[], $11::text[], $12::int[], $13::boolean[], $14::boolean[])
            AS m (at, stanza, r1, r2, r3, r4, r5, r6, s1, s2, s3, s4, s5, s6)
        CROSS JOIN LATERAL (VALUES (r1, r2, r3, r4, r5, r6), (s1, s2, s3, s4, s5, s6))
            AS c (account, id, peer, hash, pending, archived)
        WHERE c.account <> 0
    )
    UPDATE log SET last = new.last, undelivered = log.undelivered + new.added,
        latest = new.latest, disorder = new.disorder,
        delivered = CASE log.undelivered + new.added WHEN 0 THEN new.last ELSE log.delivered END,
        ahead = CASE log.undelivered + new.added WHEN 0 THEN '{}' ELSE log.ahead END
    FROM unnest($15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[])
        AS new (account, last, added, latest, disorder)
    WHERE log.account = new.account";

/// Notes deliveries, moves the marks, and removes entries that nobody needs any more. Gives how many
/// entries became delivered.
///
/// `marked` are the undelivered ones among those that were named. With those that were ahead before
/// they are `ids`; the mark moves up to the first entry that is pending and not among them. What is
/// archived and beyond that stays in the list, as far as it fits ($3).
pub(super) const MARK: &str = "
    WITH marked AS MATERIALIZED (
        SELECT e.account, e.id, e.archived
        FROM unnest($1::bigint[], $2::bigint[]) AS named (account, id)
        JOIN log l ON l.account = named.account
        JOIN entry e ON e.account = named.account AND e.id = named.id
        WHERE e.pending AND e.id > l.delivered AND e.id <> ALL (l.ahead)
    ), gone AS (
        DELETE FROM entry e USING marked m
        WHERE e.account = m.account AND e.id = m.id AND NOT m.archived
    ), done AS MATERIALIZED (
        SELECT l.account, l.last, l.delivered, l.ahead || array_agg(m.id) AS ids,
            count(*) AS marked, array_agg(m.id) FILTER (WHERE NOT m.archived) AS gone
        FROM marked m JOIN log l ON l.account = m.account GROUP BY l.account
    ), moved AS MATERIALIZED (
        SELECT d.account, d.marked, d.ids, d.gone, coalesce((
            SELECT e.id - 1 FROM entry e
            WHERE e.account = d.account AND e.id > d.delivered AND e.pending
                AND e.id <> ALL (d.ids)
            ORDER BY e.id LIMIT 1), d.last) AS mark
        FROM done d
    ), rest AS MATERIALIZED (
        SELECT m.account, m.marked, m.mark, ARRAY(
            SELECT id FROM unnest(m.ids) AS id
            WHERE id > m.mark AND (m.gone IS NULL OR id <> ALL (m.gone)) ORDER BY id) AS ahead
        FROM moved m
    ), changed AS (
        UPDATE log SET delivered = greatest(log.delivered, r.mark), ahead = r.ahead[:$3],
            undelivered = log.undelivered - r.marked + greatest(cardinality(r.ahead) - $3, 0)
        FROM rest r WHERE log.account = r.account
    )
    SELECT coalesce(sum(marked - greatest(cardinality(ahead) - $3, 0)), 0)::bigint FROM rest";
