//! The order of a list that its reader chose: columns from a closed set, put into the statement by name.

/// How a column stands in a statement.
#[derive(Clone, Copy)]
pub(super) struct Column {
    pub(super) sql: &'static str,
    /// Only then may the statement say where empty values go: an index read backwards has them first.
    pub(super) is_nullable: bool,
    /// Whether it falls where what was asked for grows.
    pub(super) is_negated: bool,
}

/// One column of a sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SortBy<C> {
    pub column: C,
    pub descending: bool,
}

/// The `ORDER BY` of a list: what was asked for, then the newest first, so that pages never overlap. Empty values last.
/// Ids are sorted by their negation, `minus_id`, which the primary key has not in order: it would be walked through all other
/// lists to collect one.
pub(super) fn order_by<C: Copy>(sort: &[SortBy<C>], stands: fn(C) -> Column, minus_id: &str) -> String {
    let mut text = String::new();
    for SortBy { column, descending } in sort {
        let Column { sql, is_nullable, is_negated } = stands(*column);
        let direction = if *descending == is_negated { "ASC" } else { "DESC" };
        let empty = if is_nullable { " NULLS LAST" } else { "" };
        text += &format!("{sql} {direction}{empty}, ");
    }
    text + minus_id
}
