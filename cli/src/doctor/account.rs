//! The checked account: its clients, and the names of the deployment's resources.

use prepull_aws::Clients;
use prepull_domain::{RegionName, Stage};

use crate::Error;

/// The account and Region of a deployment.
pub struct Account {
    pub clients: Clients,
    pub iam: aws_sdk_iam::Client,
    pub kms: aws_sdk_kms::Client,
    pub quotas: aws_sdk_servicequotas::Client,
    pub scheduler: aws_sdk_scheduler::Client,
    /// Terraform's `name`.
    pub name: String,
    /// The ARN of the state machine.
    pub machine: String,
    pub partition: String,
    pub region: RegionName,
    /// The account's ID.
    pub id: String,
}

impl Account {
    /// Reads partition, Region and account from the ARN of the state machine.
    pub fn new(clients: &Clients, name: &str, machine: String) -> Result<Self, Error> {
        let malformed = || {
            Error::Usage(format!(
                "`{machine}` is not the ARN of a state machine. Correct --state-machine"
            ))
        };
        let parts: Vec<_> = machine.split(':').collect();
        let ["arn", partition, "states", region, id, "stateMachine", _] = parts[..] else {
            return Err(malformed());
        };
        let config = clients.sdk_config();
        Ok(Self {
            clients: clients.clone(),
            iam: aws_sdk_iam::Client::new(&config),
            kms: aws_sdk_kms::Client::new(&config),
            quotas: aws_sdk_servicequotas::Client::new(&config),
            scheduler: aws_sdk_scheduler::Client::new(&config),
            name: name.to_owned(),
            partition: partition.to_owned(),
            region: region.parse().map_err(|_| malformed())?,
            id: id.to_owned(),
            machine,
        })
    }

    /// Returns the ARN of a resource in this account and Region.
    pub fn arn(&self, service: &str, resource: &str) -> String {
        let Self {
            partition,
            region,
            id,
            ..
        } = self;
        format!("arn:{partition}:{service}:{region}:{id}:{resource}")
    }

    /// Returns the ARN of a stage's function.
    pub fn function(&self, stage: Stage) -> String {
        self.arn("lambda", &format!("function:{}-{stage}", self.name))
    }

    /// Returns the name of a role. IAM is global, so the name contains the Region.
    pub fn role(&self, role: &str) -> String {
        format!("{}-{role}-{}", self.name, self.region)
    }

    /// Returns the ARN of a role.
    pub fn role_arn(&self, role: &str) -> String {
        let Self { partition, id, .. } = self;
        format!("arn:{partition}:iam::{id}:role/{}", self.role(role))
    }
}
