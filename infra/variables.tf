variable "name" {
  description = "Prefix of the names of everything that the module creates. The SSM parameters lie under `/prepull` whatever the name: one installation for each account and region."
  type        = string
  default     = "prepull"

  validation {
    # 24 characters leave room for the longest suffix in a role's name, which may have 64.
    condition     = can(regex("^[a-z][a-z0-9-]{0,23}$", var.name))
    error_message = "name is `${var.name}`: it must have 1 to 24 of a-z, 0-9 and -, the first a letter."
  }
}

variable "tags" {
  description = "Tags for everything that the module creates. What a build creates bears the `prepull:*` tags instead."
  type        = map(string)
  default     = {}
}

################################################################################
# Caches
################################################################################

variable "caches" {
  description = "The caches to keep up to date, by name. A cache is a set of images and how their snapshots are built; only `images` and `variant` are required."

  type = map(object({
    # The images, each by the full name that the pods' images resolve to: registry, repository, and tag or digest.
    # Docker Hub's official images lie under `docker.io/library/`.
    images = list(string)
    # The architectures to build a snapshot for: `x86_64`, `arm64` or both.
    architectures = optional(list(string), ["x86_64"])
    # The Bottlerocket variant of the nodes, `aws-k8s-1.NN` or `aws-k8s-1.NN-fips`. Nodes of the `-nvidia` variants use
    # the snapshots of the plain one.
    variant = string
    # The Bottlerocket release to build on: `latest` or `X.Y.Z`. Name the oldest among the nodes: a younger kernel's file
    # system may not mount there.
    bottlerocket_version = optional(string, "latest")

    # The gp3 data volume of the builder. `size_gib` is also the least size of a node's. Images should fill at most two
    # thirds of it, or the kubelet begins to delete them.
    volume = optional(object({
      size_gib         = optional(number, 50)
      iops             = optional(number, 3000)
      throughput_mibps = optional(number, 500)
      # ARN of the KMS key to encrypt with; the account's default key for EBS where there is none.
      kms_key_id = optional(string)
    }), {})

    # Where and on what to build. The instance types are tried in order, in one subnet after the other, until one has
    # capacity. Without subnets or security groups here those of the module are used. Security groups must be of the
    # subnets' VPC.
    builder = optional(object({
      instance_types = optional(object({
        x86_64 = optional(list(string), ["m7i.2xlarge", "m6i.2xlarge", "m7a.2xlarge", "m6a.2xlarge"])
        arm64  = optional(list(string), ["m7g.2xlarge", "m6g.2xlarge", "m8g.2xlarge"])
      }), {})
      subnet_ids         = optional(list(string), [])
      security_group_ids = optional(list(string), [])
    }), {})

    # Where user name and password of a registry lie, by its host: a Secrets Manager secret, or a SecureString in the
    # Parameter Store, holding the JSON `{"username": "…", "password": "…"}`. Not for private ECR, where roles are used.
    registry_credentials = optional(map(object({
      secret_arn     = optional(string)
      parameter_name = optional(string)
    })), {})

    # Keep the kubelet from ever removing the images, even where the disk is full.
    pin_images = optional(bool, false)
    # How many images are pulled at once; one more than the builder has vCPUs where this is not set.
    parallel_pulls = optional(number)
    # How many snapshots are kept for each architecture, the published one included.
    retain_snapshots = optional(number, 3)
    # After how many minutes a build gives up.
    timeout_minutes = optional(number, 60)

    # Start a build when one of the images is pushed to private ECR.
    rebuild_on_push = optional(bool, true)
    # Start a build at fixed times, because not every change comes with an event: tags move in other registries, and ECR
    # may lose an event. `expression` is a cron or rate expression of EventBridge Scheduler in `time_zone`; the start lies
    # within the `flexible_minutes` after it, or on time with 0.
    schedule = optional(object({
      enabled          = optional(bool, true)
      expression       = optional(string, "cron(0 3 * * ? *)")
      time_zone        = optional(string, "UTC")
      flexible_minutes = optional(number, 15)
    }), {})

    # Who else may use the snapshots: accounts that they are shared with (which needs `volume.kms_key_id`), regions that
    # they and the parameter with the ID of the published one are copied to.
    publication = optional(object({
      share_with_accounts = optional(list(string), [])
      copy_to_regions     = optional(list(string), [])
    }), {})
  }))

  nullable = false

  validation {
    condition     = alltrue([for name in keys(var.caches) : can(regex("^[a-z][a-z0-9-]{0,31}$", name)) && name != "config"])
    error_message = "The name of a cache must have 1 to 32 of a-z, 0-9 and -, the first a letter, and not be `config`. The names are: ${join(", ", keys(var.caches))}."
  }

  validation {
    condition     = alltrue([for cache in var.caches : length(cache.images) >= 1 && length(cache.images) <= 50])
    error_message = "A cache must have 1 to 50 images; split larger ones. The numbers of images are: ${join(", ", [for name, cache in var.caches : "${name} ${length(cache.images)}"])}."
  }

  # OCI's grammar of a reference with the registry's host made mandatory, because the kubelet finds images by their full name.
  validation {
    condition = alltrue([for image in flatten([for cache in var.caches : cache.images]) :
      length(image) <= 255 &&
      can(regex("^(?:localhost|[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)+)(?::[1-9][0-9]{0,4})?(?:/[a-z0-9]+(?:(?:\\.|__?|-+)[a-z0-9]+)*)+(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$", image))
    ])
    error_message = "Not a full image reference: ${join(", ", [for image in distinct(flatten([for cache in var.caches : cache.images])) : "`${substr(image, 0, 80)}`" if length(image) > 255 ||
      !can(regex("^(?:localhost|[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)+)(?::[1-9][0-9]{0,4})?(?:/[a-z0-9]+(?:(?:\\.|__?|-+)[a-z0-9]+)*)+(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$", image))
    ])}. Write registry/repository:tag or registry/repository@sha256:<64 hexadecimal digits>, host and repository in lower case, at most 255 characters; for example `docker.io/library/nginx:1.27`, not `nginx:1.27`."
  }

  validation {
    condition     = alltrue([for image in flatten([for cache in var.caches : cache.images]) : can(regex("[:@][^/]+$", image))])
    error_message = "An image needs a tag or a digest, `:latest` for example: ${join(", ", [for image in distinct(flatten([for cache in var.caches : cache.images])) : "`${substr(image, 0, 80)}`" if !can(regex("[:@][^/]+$", image))])}."
  }

  validation {
    condition     = !anytrue([for image in flatten([for cache in var.caches : cache.images]) : can(regex("^docker\\.io/[^/]+$|^(?:index|registry-1)\\.docker\\.io/", image))])
    error_message = "Not the name by which nodes know an image of Docker Hub: ${join(", ", [for image in distinct(flatten([for cache in var.caches : cache.images])) : "`${substr(image, 0, 80)}`" if can(regex("^docker\\.io/[^/]+$|^(?:index|registry-1)\\.docker\\.io/", image))])}. Write `docker.io/library/<image>` for official images and `docker.io/<owner>/<image>` for all others."
  }

  validation {
    condition     = alltrue([for cache in var.caches : length(distinct(cache.images)) == length(cache.images)])
    error_message = "A cache must name an image once: ${join(", ", flatten([for name, cache in var.caches : [for image in distinct(cache.images) : "${name} has `${substr(image, 0, 80)}` more than once" if length([for other in cache.images : other if other == image]) > 1]]))}."
  }

  validation {
    condition     = alltrue([for cache in var.caches : length(cache.architectures) > 0 && length(setsubtract(cache.architectures, ["x86_64", "arm64"])) == 0 && length(distinct(cache.architectures)) == length(cache.architectures)])
    error_message = "architectures must name `x86_64`, `arm64` or both, each once: ${join(", ", [for name, cache in var.caches : "${name} has [${join(", ", cache.architectures)}]"])}."
  }

  validation {
    condition     = !anytrue([for cache in var.caches : can(regex("-nvidia(?:-fips)?$", cache.variant))])
    error_message = "A builder without a GPU does not come up with an NVIDIA variant: name the plain variant, whose snapshots NVIDIA nodes can use. Remove `-nvidia` from ${join(", ", [for name, cache in var.caches : "`${cache.variant}` (${name})" if can(regex("-nvidia(?:-fips)?$", cache.variant))])}."
  }

  validation {
    condition     = !anytrue([for cache in var.caches : startswith(cache.variant, "aws-mantle")])
    error_message = "The data volume of an aws-mantle variant is bound to the TPM of one instance, so no other node can use a snapshot of it: ${join(", ", [for name, cache in var.caches : "`${cache.variant}` (${name})" if startswith(cache.variant, "aws-mantle")])}."
  }

  # From 1.28 on the data volume is XFS, and the older variants are no longer published.
  validation {
    condition     = alltrue([for cache in var.caches : can(regex("^aws-k8s-1\\.(?:2[89]|[3-9][0-9]|[1-9][0-9]{2})(?:-nvidia)?(?:-fips)?$|^aws-mantle", cache.variant))])
    error_message = "Unknown variant ${join(", ", [for name, cache in var.caches : "`${cache.variant}` (${name})" if !can(regex("^aws-k8s-1\\.(?:2[89]|[3-9][0-9]|[1-9][0-9]{2})(?:-nvidia)?(?:-fips)?$|^aws-mantle", cache.variant))])}: expected `aws-k8s-1.NN` with NN from 28, or the same with `-fips`."
  }

  validation {
    condition     = alltrue([for cache in var.caches : can(regex("^(?:latest|[0-9]{1,4}\\.[0-9]{1,4}\\.[0-9]{1,4})$", cache.bottlerocket_version))])
    error_message = "bottlerocket_version must be `latest` or a release like `1.57.0`: ${join(", ", [for name, cache in var.caches : "${name} has `${cache.bottlerocket_version}`"])}."
  }

  validation {
    condition     = alltrue([for cache in var.caches : cache.volume.size_gib == floor(cache.volume.size_gib) && cache.volume.size_gib >= 2 && cache.volume.size_gib <= 16384])
    error_message = "volume.size_gib must be a whole number from 2 to 16384: ${join(", ", [for name, cache in var.caches : "${name} has ${cache.volume.size_gib}"])}."
  }

  validation {
    condition     = alltrue([for cache in var.caches : cache.volume.iops == floor(cache.volume.iops) && cache.volume.iops >= 3000 && cache.volume.iops <= max(3000, min(80000, 500 * cache.volume.size_gib))])
    error_message = "volume.iops must be a whole number from 3000 to 80000, above 3000 at most 500 for each GiB: ${join(", ", [for name, cache in var.caches : "${name} has ${cache.volume.iops} on ${cache.volume.size_gib} GiB"])}."
  }

  validation {
    condition     = alltrue([for cache in var.caches : cache.volume.throughput_mibps == floor(cache.volume.throughput_mibps) && cache.volume.throughput_mibps >= 125 && cache.volume.throughput_mibps <= min(2000, cache.volume.iops / 4)])
    error_message = "volume.throughput_mibps must be a whole number from 125 to 2000, at most a quarter of volume.iops: ${join(", ", [for name, cache in var.caches : "${name} has ${cache.volume.throughput_mibps} with ${cache.volume.iops} IOPS"])}."
  }

  validation {
    condition     = alltrue([for cache in var.caches : can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", cache.volume.kms_key_id)) if cache.volume.kms_key_id != null])
    error_message = "volume.kms_key_id must be the ARN of a key, not of an alias, since roles are allowed to use just this key: ${join(", ", [for name, cache in var.caches : "${name} has `${cache.volume.kms_key_id}`" if cache.volume.kms_key_id != null])}."
  }

  validation {
    condition     = alltrue(flatten([for cache in var.caches : [for architecture, types in cache.builder.instance_types : length(types) > 0 && alltrue([for type in types : can(regex("^[a-z0-9-]+\\.[a-z0-9-]+$", type))])]]))
    error_message = "builder.instance_types must be lists of one or more EC2 instance types like `m7i.2xlarge`: ${join(", ", flatten([for name, cache in var.caches : [for architecture, types in cache.builder.instance_types : "${name} has [${join(", ", types)}] for ${architecture}"]]))}."
  }

  validation {
    condition     = alltrue(flatten([for cache in var.caches : [for id in cache.builder.subnet_ids : can(regex("^subnet-[0-9a-f]{8,17}$", id))]]))
    error_message = "builder.subnet_ids must be IDs of subnets: ${join(", ", flatten([for name, cache in var.caches : [for id in cache.builder.subnet_ids : "${name} has `${id}`" if !can(regex("^subnet-[0-9a-f]{8,17}$", id))]]))}."
  }

  validation {
    condition     = alltrue(flatten([for cache in var.caches : [for id in cache.builder.security_group_ids : can(regex("^sg-[0-9a-f]{8,17}$", id))]]))
    error_message = "builder.security_group_ids must be IDs of security groups: ${join(", ", flatten([for name, cache in var.caches : [for id in cache.builder.security_group_ids : "${name} has `${id}`" if !can(regex("^sg-[0-9a-f]{8,17}$", id))]]))}."
  }

  validation {
    condition     = alltrue(flatten([for cache in var.caches : [for host in keys(cache.registry_credentials) : anytrue([for image in cache.images : startswith(image, "${host}/")])]]))
    error_message = "registry_credentials must be given by the host of one of the cache's images, `docker.io` for Docker Hub: ${join(", ", flatten([for name, cache in var.caches : [for host in keys(cache.registry_credentials) : "${name} has no image of `${host}`" if !anytrue([for image in cache.images : startswith(image, "${host}/")])]]))}."
  }

  validation {
    condition     = !anytrue(flatten([for cache in var.caches : [for host in keys(cache.registry_credentials) : can(regex("^[0-9]{12}\\.dkr\\.ecr(?:-fips)?\\.", host))]]))
    error_message = "Private ECR needs no registry_credentials, the module's roles may pull: remove ${join(", ", flatten([for name, cache in var.caches : [for host in keys(cache.registry_credentials) : "`${host}` (${name})" if can(regex("^[0-9]{12}\\.dkr\\.ecr(?:-fips)?\\.", host))]]))}."
  }

  validation {
    condition     = alltrue(flatten([for cache in var.caches : [for credentials in cache.registry_credentials : (credentials.secret_arn == null) != (credentials.parameter_name == null)]]))
    error_message = "registry_credentials need either secret_arn or parameter_name: ${join(", ", flatten([for name, cache in var.caches : [for host, credentials in cache.registry_credentials : "`${host}` (${name})" if(credentials.secret_arn == null) == (credentials.parameter_name == null)]]))}."
  }

  validation {
    condition     = alltrue(flatten([for cache in var.caches : [for credentials in cache.registry_credentials : can(regex("^arn:[a-z-]+:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@-]+$", credentials.secret_arn)) if credentials.secret_arn != null]]))
    error_message = "secret_arn must be the whole ARN of a secret: ${join(", ", flatten([for name, cache in var.caches : [for credentials in cache.registry_credentials : "${name} has `${credentials.secret_arn}`" if credentials.secret_arn != null]]))}."
  }

  validation {
    condition     = alltrue(flatten([for cache in var.caches : [for credentials in cache.registry_credentials : can(regex("^/[A-Za-z0-9_./-]+$", credentials.parameter_name)) if credentials.parameter_name != null]]))
    error_message = "parameter_name must be the name of a parameter, beginning with `/`: ${join(", ", flatten([for name, cache in var.caches : [for credentials in cache.registry_credentials : "${name} has `${credentials.parameter_name}`" if credentials.parameter_name != null]]))}."
  }

  validation {
    condition     = alltrue([for cache in var.caches : cache.parallel_pulls == null ? true : cache.parallel_pulls == floor(cache.parallel_pulls) && cache.parallel_pulls >= 1 && cache.parallel_pulls <= 64])
    error_message = "parallel_pulls must be a whole number from 1 to 64: ${join(", ", [for name, cache in var.caches : "${name} has ${cache.parallel_pulls}" if cache.parallel_pulls != null])}."
  }

  validation {
    condition     = alltrue([for cache in var.caches : cache.retain_snapshots == floor(cache.retain_snapshots) && cache.retain_snapshots >= 1 && cache.retain_snapshots <= 20])
    error_message = "retain_snapshots must be a whole number from 1 to 20: ${join(", ", [for name, cache in var.caches : "${name} has ${cache.retain_snapshots}"])}."
  }

  validation {
    condition     = alltrue([for cache in var.caches : cache.timeout_minutes == floor(cache.timeout_minutes) && cache.timeout_minutes >= 10 && cache.timeout_minutes <= 720])
    error_message = "timeout_minutes must be a whole number from 10 to 720: ${join(", ", [for name, cache in var.caches : "${name} has ${cache.timeout_minutes}"])}."
  }

  validation {
    condition     = alltrue([for cache in var.caches : can(regex("^(?:cron\\(\\S+(?: \\S+){5}\\)|rate\\([1-9][0-9]* (?:minute|hour|day)s?\\))$", cache.schedule.expression))])
    error_message = "schedule.expression must be `cron(minutes hours day-of-month month day-of-week year)` or `rate(N hours)`: ${join(", ", [for name, cache in var.caches : "${name} has `${cache.schedule.expression}`"])}."
  }

  validation {
    condition     = alltrue([for cache in var.caches : can(regex("^[A-Z][A-Za-z_]*(?:/[A-Z][A-Za-z0-9_+-]*){0,2}$", cache.schedule.time_zone))])
    error_message = "schedule.time_zone must be a name of the IANA time zone database, `UTC` or `Europe/Berlin`: ${join(", ", [for name, cache in var.caches : "${name} has `${cache.schedule.time_zone}`"])}."
  }

  validation {
    condition     = alltrue([for cache in var.caches : cache.schedule.flexible_minutes == floor(cache.schedule.flexible_minutes) && cache.schedule.flexible_minutes >= 0 && cache.schedule.flexible_minutes <= 1440])
    error_message = "schedule.flexible_minutes must be a whole number from 0 to 1440: ${join(", ", [for name, cache in var.caches : "${name} has ${cache.schedule.flexible_minutes}"])}."
  }

  validation {
    condition     = alltrue(flatten([for cache in var.caches : [for account in cache.publication.share_with_accounts : can(regex("^[0-9]{12}$", account))]]))
    error_message = "publication.share_with_accounts must be account IDs, 12 digits in quotes: ${join(", ", flatten([for name, cache in var.caches : [for account in cache.publication.share_with_accounts : "${name} has `${account}`" if !can(regex("^[0-9]{12}$", account))]]))}."
  }

  # EBS refuses to share what is encrypted with a key that the other account cannot be let use.
  validation {
    condition     = alltrue([for cache in var.caches : cache.volume.kms_key_id != null if length(cache.publication.share_with_accounts) > 0])
    error_message = "A snapshot encrypted with AWS's own key for EBS cannot be shared: set volume.kms_key_id, to a key that the other accounts may use, in ${join(", ", [for name, cache in var.caches : name if length(cache.publication.share_with_accounts) > 0 && cache.volume.kms_key_id == null])}."
  }

  validation {
    condition     = alltrue(flatten([for cache in var.caches : [for region in cache.publication.copy_to_regions : can(regex("^[a-z]{2,4}(?:-[a-z]+)+-[0-9]{1,2}$", region))]]))
    error_message = "publication.copy_to_regions must be names of regions like `eu-central-1`: ${join(", ", flatten([for name, cache in var.caches : [for region in cache.publication.copy_to_regions : "${name} has `${region}`" if !can(regex("^[a-z]{2,4}(?:-[a-z]+)+-[0-9]{1,2}$", region))]]))}."
  }
}

variable "debounce_seconds" {
  description = "How long a build waits before it plans, so that a burst of pushes becomes one build."
  type        = number
  default     = 60

  validation {
    condition     = var.debounce_seconds == floor(var.debounce_seconds) && var.debounce_seconds >= 1 && var.debounce_seconds <= 3600
    error_message = "debounce_seconds is ${var.debounce_seconds}: it must be a whole number from 1 to 3600."
  }
}

################################################################################
# Functions
################################################################################

variable "functions_directory" {
  description = "The directory that holds `<stage>/bootstrap.zip` for every stage, as `cargo lambda build --output-format zip` leaves it: `target/lambda`."
  type        = string
}

variable "function_architecture" {
  description = "The architecture that the functions were built for: `arm64` or `x86_64`. It has nothing to do with the architectures of the caches."
  type        = string
  default     = "arm64"

  validation {
    condition     = contains(["arm64", "x86_64"], var.function_architecture)
    error_message = "function_architecture is `${var.function_architecture}`: it must be `arm64` or `x86_64`."
  }
}

variable "function_environment" {
  description = "Environment variables for every function: a proxy, a CA bundle, `RUST_LOG`."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.function_environment) : can(regex("^[A-Za-z][A-Za-z0-9_]+$", name)) && !startswith(name, "PREPULL_")])
    error_message = "function_environment must have names of letters, digits and _, and none that begins with PREPULL_, which the module sets: ${join(", ", keys(var.function_environment))}."
  }
}

variable "log_retention_days" {
  description = "How long logs are kept, in days. 0 keeps them for ever."
  type        = number
  default     = 30

  validation {
    condition     = contains([0, 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days is ${var.log_retention_days}: CloudWatch Logs takes 0, 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731 and some more, up to 3653."
  }
}

variable "log_kms_key_arn" {
  description = "ARN of a KMS key to encrypt the logs with. Its policy must allow CloudWatch Logs. CloudWatch's own key where there is none."
  type        = string
  default     = null
}

variable "permissions_boundary_arn" {
  description = "ARN of a policy to set as the permissions boundary of every role."
  type        = string
  default     = null
}

################################################################################
# Alarms
################################################################################

variable "alarm_actions" {
  description = "ARNs of what the alarms call: SNS topics, mostly. Without any, no alarms are created."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.alarm_actions : can(regex("^arn:[a-z-]+:[a-z0-9-]+:", arn))]) && length(var.alarm_actions) <= 5
    error_message = "alarm_actions must be at most 5 ARNs: ${join(", ", var.alarm_actions)}."
  }
}

variable "alarm_without_success_hours" {
  description = "After how many hours without a build that ended well, of whichever cache, an alarm is raised; `null` for never. More than what lies between two starts by a schedule."
  type        = number
  default     = 36

  validation {
    # The limit is CloudWatch's: an alarm looks back seven days at most.
    condition     = var.alarm_without_success_hours == null ? true : var.alarm_without_success_hours >= 1 && var.alarm_without_success_hours <= 168 && floor(var.alarm_without_success_hours) == var.alarm_without_success_hours
    error_message = "alarm_without_success_hours is ${coalesce(var.alarm_without_success_hours, 0)}: it must be a whole number from 1 to 168, or null."
  }
}

################################################################################
# Builders' network
################################################################################

variable "subnet_ids" {
  description = "The subnets that builders run in, all of one VPC, unless a cache names its own. They need a way to the registries, to SSM, ECR and S3: through the internet or VPC endpoints. The default VPC's subnets where there are none."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for id in var.subnet_ids : can(regex("^subnet-[0-9a-f]{8,17}$", id))])
    error_message = "subnet_ids must be IDs of subnets: ${join(", ", var.subnet_ids)}."
  }
}

variable "security_group_ids" {
  description = "The security groups of builders, unless a cache names its own. Where there are none the module creates one without ingress."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for id in var.security_group_ids : can(regex("^sg-[0-9a-f]{8,17}$", id))])
    error_message = "security_group_ids must be IDs of security groups: ${join(", ", var.security_group_ids)}."
  }
}

variable "egress_cidr_blocks" {
  description = "Where builders may connect to, in the security group that the module creates. All by default, since registries hand out the addresses of content delivery networks."
  type        = list(string)
  default     = ["0.0.0.0/0", "::/0"]

  validation {
    condition     = alltrue([for block in var.egress_cidr_blocks : can(cidrhost(block, 0))])
    error_message = "egress_cidr_blocks must be CIDR blocks: ${join(", ", var.egress_cidr_blocks)}."
  }
}
