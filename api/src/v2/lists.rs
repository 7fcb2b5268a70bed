//! Pages and the order of lists, as their queries ask for them.

use std::str::FromStr;

use countersign_shared::store::sorting::SortBy;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::Error;

const DEFAULT_PER_PAGE: i64 = 30;
const MOST_PER_PAGE: i64 = 100;
/// No list has more columns to sort by.
const MOST_SORTED: usize = 8;

/// Which page of a list. Nonsense counts as not given, too much as the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRequest {
    page: i64,
    per_page: i64,
}

/// What a list says about its page.
#[derive(Serialize, ToSchema)]
pub(crate) struct Pagination {
    current_page: i64,
    /// At most 100.
    per_page: i64,
    total_entries: i64,
    /// At least 1.
    total_pages: i64,
}

impl PageRequest {
    pub(super) fn parse(page: Option<&str>, per_page: Option<&str>) -> Self {
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok()).filter(|&number| number > 0);
        Self {
            // Far past any end, and still no overflow.
            page: number(page).unwrap_or(1).min(i64::MAX / MOST_PER_PAGE),
            per_page: number(per_page).unwrap_or(DEFAULT_PER_PAGE).min(MOST_PER_PAGE),
        }
    }

    pub(super) fn limit(self) -> i64 {
        self.per_page
    }

    pub(super) fn offset(self) -> i64 {
        (self.page - 1) * self.per_page
    }

    pub(super) fn of(self, total_entries: i64) -> Pagination {
        let total_pages = total_entries.div_euclid(self.per_page) + i64::from(total_entries % self.per_page > 0);
        Pagination { current_page: self.page, per_page: self.per_page, total_entries, total_pages: total_pages.max(1) }
    }
}

/// `field:dir[,field:dir…]`; nothing is no sort.
pub(super) fn sort<C: FromStr>(text: Option<&str>) -> Result<Vec<SortBy<C>>, Error> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(Vec::new());
    };
    let one = |part: &str| {
        let (field, direction) = part.split_once(':')?;
        let descending = match direction {
            "asc" => false,
            "desc" => true,
            _ => return None,
        };
        Some(SortBy { column: field.parse().ok()?, descending })
    };
    let parts: Option<Vec<SortBy<C>>> = text.split(',').take(MOST_SORTED + 1).map(one).collect();
    parts
        .filter(|parts| parts.len() <= MOST_SORTED)
        .ok_or_else(|| Error::BadRequest(format!("Invalid sorting parameter: {}", shown(text))))
}

/// What a client sent, short enough for an answer.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_shared::store::certificates::ordered::CertificateColumn as C;

    #[test]
    fn nonsense_falls_back_and_too_much_is_the_most() {
        let page = |page, per_page| PageRequest::parse(Some(page), Some(per_page));
        assert_eq!(page("2", "10").offset(), 10);
        for nonsense in ["0", "-1", "x", "", "1.5", "99999999999999999999"] {
            assert_eq!(page(nonsense, nonsense), PageRequest::parse(None, None), "{nonsense}");
        }
        assert_eq!((page("1", "101").limit(), page("1", "5000").limit()), (100, 100));
        assert!(page("9223372036854775807", "100").offset() > 0);
        let pages = |total| PageRequest::parse(None, None).of(total).total_pages;
        assert_eq!((pages(0), pages(1), pages(30), pages(31)), (1, 1, 1, 2));
    }

    #[test]
    fn a_sort_is_known_fields_with_a_direction() {
        let by = |column, descending| SortBy { column, descending };
        assert_eq!(sort::<C>(None).unwrap(), []);
        assert_eq!(
            sort(Some("expiration:desc,common_name:asc")).unwrap(),
            [by(C::Expiration, true), by(C::CommonName, false)]
        );
        assert_eq!(sort::<C>(Some(&["id:asc"; MOST_SORTED].join(","))).unwrap().len(), MOST_SORTED);
        let endless = ["id:asc"; 3000].join(",");
        for bad in ["bogus:asc", "id", "id:up", "id:asc,", "c.not_after:asc", "id:asc;drop", &endless] {
            assert!(sort::<C>(Some(bad)).is_err(), "{bad}");
        }
    }
}
