//! `countersignctl migrate`

use clap::Args;
use countersign_shared::config::{DatabaseAddress, DirectAddress};
use countersign_shared::store::{self, schema};

#[derive(Args)]
pub(super) struct Migrate {
    #[command(flatten)]
    database: DatabaseAddress,

    #[command(flatten)]
    direct: DirectAddress,
}

impl Migrate {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let options = match self.direct.options()? {
            Some(direct) => direct,
            None => self.database.options()?,
        };
        let mut conn = store::connect(&options).await?;
        schema::migrate(&mut conn).await?;
        println!("the schema is at version {}", schema::version());
        Ok(())
    }
}
