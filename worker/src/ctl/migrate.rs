//! `countersignctl migrate`

use clap::Args;
use countersign_shared::config::DatabaseArgs;
use countersign_shared::store::schema;

#[derive(Args)]
pub(super) struct Migrate {
    #[command(flatten)]
    database: DatabaseArgs,
}

impl Migrate {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let pool = self.database.pool()?;
        let mut conn = pool.acquire().await?;
        schema::migrate(&mut conn).await?;
        println!("the schema is at version {}", schema::version());
        Ok(())
    }
}
