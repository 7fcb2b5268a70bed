//! What stands between our processes and the stack's database and DNS, because a test wants it, and how they get there.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use super::pgbouncer::{PgBouncer, PoolMode};
use super::plan::Plan;
use super::{Stack, StackBuilder};
use crate::dns_front::DnsFront;
use crate::postgres_front::PostgresFront;

/// The name under which the one front for everybody is kept; no replica has it.
const EVERYBODY: &str = "";

#[derive(Default)]
pub(super) struct Wanted {
    postgres: BTreeSet<String>,
    pgbouncer: bool,
    dns: bool,
}

#[derive(Default)]
pub(super) struct Fronts {
    postgres: BTreeMap<String, PostgresFront>,
    pgbouncer: Option<PgBouncer>,
    dns: Option<DnsFront>,
}

impl Wanted {
    /// Starts them and points the settings at them; the plan has all its replicas.
    pub(super) async fn start(self, plan: &mut Plan) -> Result<Fronts> {
        let mut fronts = Fronts::default();
        let direct = plan.settings.get("DATABASE_URL").cloned().unwrap_or_else(|| plan.database_url());
        let postgres = plan.postgres.address();
        for replica in self.postgres {
            let front = PostgresFront::start(postgres)?;
            let url = direct.replacen(&postgres.to_string(), &front.address().to_string(), 1);
            let settings = match replica.as_str() {
                EVERYBODY => &mut plan.settings,
                name => &mut plan.replicas.get_mut(name).with_context(|| format!("the stack has no {name}"))?.settings,
            };
            settings.insert("DATABASE_URL".to_owned(), url);
            fronts.postgres.insert(replica, front);
        }
        if self.pgbouncer {
            let pooler = PgBouncer::start(&direct, PoolMode::Session, "").await?;
            plan.settings.insert("DATABASE_URL".to_owned(), pooler.url().to_owned());
            fronts.pgbouncer = Some(pooler);
        }
        if self.dns {
            let front = DnsFront::start(plan.resolver_address().parse()?)?;
            plan.settings.insert("DNS_RESOLVERS".to_owned(), front.address().to_string());
            fronts.dns = Some(front);
        }
        Ok(fronts)
    }
}

impl StackBuilder {
    /// Puts one front between all our processes and Postgres: [`Stack::postgres_front`].
    #[must_use]
    pub fn postgres_front(self) -> Self {
        self.postgres_front_of(EVERYBODY)
    }

    /// Puts a front between one replica and Postgres: [`Stack::postgres_front_of`].
    #[must_use]
    pub fn postgres_front_of(mut self, replica: &str) -> Self {
        self.fronts.postgres.insert(replica.to_owned());
        self
    }

    /// Puts a PgBouncer in session mode between our processes and Postgres: [`Stack::pgbouncer`].
    #[must_use]
    pub fn pgbouncer(mut self) -> Self {
        self.fronts.pgbouncer = true;
        self
    }

    /// Puts a front between our processes and DNS: [`Stack::dns_front`]. The CA goes on asking without it.
    #[must_use]
    pub fn dns_front(mut self) -> Self {
        self.fronts.dns = true;
        self
    }
}

impl Stack {
    /// What our processes take for Postgres.
    ///
    /// # Panics
    /// If the stack was built without.
    pub fn postgres_front(&self) -> &PostgresFront {
        self.postgres_front_of(EVERYBODY)
    }

    /// What this replica takes for Postgres.
    ///
    /// # Panics
    /// If the stack was built without.
    pub fn postgres_front_of(&self, replica: &str) -> &PostgresFront {
        self.fronts.postgres.get(replica).expect("this stack has no such front of Postgres")
    }

    /// The pooler of our processes.
    ///
    /// # Panics
    /// If the stack was built without.
    pub fn pgbouncer(&self) -> &PgBouncer {
        self.fronts.pgbouncer.as_ref().expect("this stack has no PgBouncer")
    }

    /// What our processes take for DNS.
    ///
    /// # Panics
    /// If the stack was built without.
    pub fn dns_front(&self) -> &DnsFront {
        self.fronts.dns.as_ref().expect("this stack has no front of DNS")
    }
}
