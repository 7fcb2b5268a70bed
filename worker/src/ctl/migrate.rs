//! `countersignctl migrate`

use clap::Args;
use countersign_shared::config::DatabaseAddress;
use countersign_shared::store::{self, schema};

#[derive(Args)]
pub(super) struct Migrate {
    #[command(flatten)]
    database: DatabaseAddress,
}

impl Migrate {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let mut conn = store::connect(&self.database.options()?).await?;
        schema::migrate(&mut conn).await?;
        println!("the schema is at version {}", schema::version());
        Ok(())
    }
}
