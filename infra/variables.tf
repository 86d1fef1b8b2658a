variable "name" {
  description = "Prefix for the names of all resources of the module. The path of the SSM parameters is always `/prepull`, so an account can have one installation in each Region."
  type        = string
  default     = "prepull"

  validation {
    # A role's name has at most 64 characters. 24 leave room for the longest suffix.
    condition     = can(regex("^[a-z][a-z0-9-]{0,23}$", var.name))
    error_message = "name is invalid: `${var.name}`. Use 1 to 24 characters of a-z, 0-9 and -, starting with a letter."
  }
}

variable "tags" {
  description = "Tags for all resources of the module, and for the instances, volumes, network interfaces and snapshots of builds, which also get the `default_tags` of the provider."
  type        = map(string)
  default     = {}

  validation {
    condition     = length(var.tags) <= 42 && alltrue([for key, value in var.tags : can(regex("^.{1,128}$", key)) && length(value) <= 256 && !can(regex("^(?:(?i:aws:)|prepull:)", key))])
    error_message = "tags is invalid: it has the keys ${join(", ", keys(var.tags))}. Use at most 42 tags, keys of 1 to 128 characters without `aws:` and `prepull:`, and values of at most 256 characters."
  }
}

################################################################################
# Caches
################################################################################

variable "caches" {
  description = "Caches, by name. A cache is a set of images and the settings for its snapshots. Only `images` and `variant` are required."

  type = map(object({
    # Full references of the images, as the pods' image names resolve: registry, repository, and tag or digest. Official
    # images of Docker Hub start with `docker.io/library/`.
    images = list(string)
    # Architectures that get a snapshot: `x86_64`, `arm64` or both.
    architectures = optional(list(string), ["x86_64"])
    # Bottlerocket variant of the nodes: `aws-k8s-1.NN` or `aws-k8s-1.NN-fips`. Nodes of `-nvidia` variants use snapshots
    # of the plain variant.
    variant = string
    # Bottlerocket release of the builder: `latest` or `X.Y.Z`. Use the oldest release of your nodes, because an older kernel
    # may not mount the file system of a newer one.
    bottlerocket_version = optional(string, "latest")

    # The builder's gp3 data volume. `size_gib` is also the minimum size of a node's data volume. Images should fill at most
    # two thirds of it. A build fails at 80 %, and the kubelet removes images from 85 % on.
    volume = optional(object({
      size_gib         = optional(number, 50)
      iops             = optional(number, 3000)
      throughput_mibps = optional(number, 500)
      # ARN of the KMS key for encryption. The default is the account's default key for EBS.
      kms_key_id = optional(string)
    }), {})

    # Instance types and network of the builder. launch-builder tries the instance types in order, each in every subnet,
    # until one has capacity. A type over the account's quota is skipped. The last default has 2 vCPUs for that reason: a
    # new account has 5, which suffice for a builder of each architecture. AWS's Free plan includes m7i-flex.large. The
    # default subnets and security groups are those of the module. Security groups must be in the VPC of the subnets.
    builder = optional(object({
      instance_types = optional(object({
        x86_64 = optional(list(string), ["m7i.2xlarge", "m6i.2xlarge", "m7a.2xlarge", "m6a.2xlarge", "m7i-flex.large"])
        arm64  = optional(list(string), ["m7g.2xlarge", "m6g.2xlarge", "m8g.2xlarge", "m7g.large"])
      }), {})
      subnet_ids         = optional(list(string), [])
      security_group_ids = optional(list(string), [])
    }), {})

    # Credentials of registries, by host: a secret in Secrets Manager, or a SecureString in the Parameter Store. Its value
    # is JSON: `{"username": "…", "password": "…"}`. Private ECR and public ECR need none, because they use roles.
    registry_credentials = optional(map(object({
      secret_arn     = optional(string)
      parameter_name = optional(string)
    })), {})

    # Pins the images, so the kubelet never removes them, not even if the disk is full.
    pin_images = optional(bool, false)
    # Number of parallel pulls. The default is one more than the builder's vCPUs.
    parallel_pulls = optional(number)
    # Verification of a new snapshot on a second machine, before its publication. `level` is `off`, `records` (boot,
    # containerd's records, sizes of layers, metadata of files) or `full` (also every byte of layers and files). The
    # default is `full` up to 512 MiB of compressed layers, and `records` above. `releases` are the Bottlerocket releases to
    # boot: the oldest and the newest one of the cache's nodes. The default is the builder's release.
    verification = optional(object({
      level    = optional(string)
      releases = optional(list(string), [])
    }), {})
    # Number of snapshots to keep for each architecture, including the published one.
    retain_snapshots = optional(number, 3)
    # Days for which an older snapshot stays after its replacement or rejection. The event `Snapshot Expiring` announces its
    # deletion. With 0, it goes at once and without an event. A change applies to deletions that are announced later.
    retain_days = optional(number, 7)
    # Timeout of a build in minutes.
    timeout_minutes = optional(number, 60)

    # Starts a build when a tag of one of the images is new in private ECR: by a push, by replication, or through a
    # pull-through cache.
    rebuild_on_push = optional(bool, true)
    # Starts a build at fixed times, because some changes have no event: tags move in other registries, and ECR may lose an
    # event. `expression` is a cron or rate expression of EventBridge Scheduler in `time_zone`. The build starts within
    # `flexible_minutes` after that time.
    schedule = optional(object({
      enabled          = optional(bool, true)
      expression       = optional(string, "cron(0 3 * * ? *)")
      time_zone        = optional(string, "UTC")
      flexible_minutes = optional(number, 15)
    }), {})

    # Accounts that may use the snapshots, which requires `volume.kms_key_id`, and Regions that get copies of them and of the
    # parameter with the published ID. If the cache has a key, copies require a multi-Region key with a replica in each Region.
    publication = optional(object({
      share_with_accounts = optional(list(string), [])
      copy_to_regions     = optional(list(string), [])
      # Time at which a published snapshot becomes stable, the one that nodes use: `immediate`, `manual` (with `prepull
      # promote`), or `soak` (after `soak_minutes` without a rejection, 1 to 43200).
      promotion = optional(object({
        mode         = optional(string, "immediate")
        soak_minutes = optional(number)
      }), {})
    }), {})

    # Tags for the instances, volumes, network interfaces and snapshots of this cache, beside `tags` of the module.
    tags = optional(map(string), {})
  }))

  nullable = false

  validation {
    condition     = alltrue([for name in keys(var.caches) : can(regex("^[a-z][a-z0-9-]{0,31}$", name)) && !contains(["config", "announced"], name)])
    error_message = "A cache name is invalid: the names are ${join(", ", keys(var.caches))}. Use 1 to 32 characters of a-z, 0-9 and -, starting with a letter, and not `config` or `announced`."
  }

  validation {
    condition     = alltrue([for cache in var.caches : length(cache.images) >= 1 && length(cache.images) <= 200])
    error_message = "A cache has too few or too many images: ${join(", ", [for name, cache in var.caches : "${name} has ${length(cache.images)}"])}. List 1 to 200 images, and split larger caches."
  }

  # OCI's grammar of references, but the registry's host is required, because the kubelet finds images by their full name.
  validation {
    condition = alltrue([for image in flatten([for cache in var.caches : cache.images]) :
      length(image) <= 255 &&
      can(regex("^(?:localhost|[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)+)(?::[1-9][0-9]{0,4})?(?:/[a-z0-9]+(?:(?:\\.|__?|-+)[a-z0-9]+)*)+(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$", image))
    ])
    error_message = "An image is not a full reference: ${join(", ", [for image in distinct(flatten([for cache in var.caches : cache.images])) : "`${substr(image, 0, 80)}`" if length(image) > 255 ||
      !can(regex("^(?:localhost|[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)+)(?::[1-9][0-9]{0,4})?(?:/[a-z0-9]+(?:(?:\\.|__?|-+)[a-z0-9]+)*)+(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$", image))
    ])}. Write registry/repository:tag or registry/repository@sha256:<64 hexadecimal digits>, host and repository in lower case, at most 255 characters; for example `docker.io/library/nginx:1.27`, not `nginx:1.27`."
  }

  validation {
    condition     = alltrue([for image in flatten([for cache in var.caches : cache.images]) : can(regex("[:@][^/]+$", image))])
    error_message = "An image has no tag and no digest: ${join(", ", [for image in distinct(flatten([for cache in var.caches : cache.images])) : "`${substr(image, 0, 80)}`" if !can(regex("[:@][^/]+$", image))])}. Add one, for example `:latest`."
  }

  validation {
    condition     = !anytrue([for image in flatten([for cache in var.caches : cache.images]) : can(regex("^docker\\.io/[^/]+$|^(?:index|registry-1)\\.docker\\.io/", image))])
    error_message = "An image of Docker Hub has another name on nodes: ${join(", ", [for image in distinct(flatten([for cache in var.caches : cache.images])) : "`${substr(image, 0, 80)}`" if can(regex("^docker\\.io/[^/]+$|^(?:index|registry-1)\\.docker\\.io/", image))])}. Write `docker.io/library/<image>` for official images and `docker.io/<owner>/<image>` for all others."
  }

  validation {
    condition     = alltrue([for cache in var.caches : length(distinct(cache.images)) == length(cache.images)])
    error_message = "A cache has duplicate images: ${join(", ", flatten([for name, cache in var.caches : [for image in distinct(cache.images) : "${name} has `${substr(image, 0, 80)}` more than once" if length([for other in cache.images : other if other == image]) > 1]]))}. Remove the repetitions."
  }

  validation {
    condition     = alltrue([for cache in var.caches : length(cache.architectures) > 0 && length(setsubtract(cache.architectures, ["x86_64", "arm64"])) == 0 && length(distinct(cache.architectures)) == length(cache.architectures)])
    error_message = "architectures is invalid: ${join(", ", [for name, cache in var.caches : "${name} has [${join(", ", cache.architectures)}]"])}. Use `x86_64`, `arm64` or both, each once."
  }

  validation {
    condition     = !anytrue([for cache in var.caches : can(regex("-nvidia(?:-fips)?$", cache.variant))])
    error_message = "A builder without a GPU cannot boot an NVIDIA variant, but NVIDIA nodes can use snapshots of the plain variant. Remove `-nvidia` from ${join(", ", [for name, cache in var.caches : "`${cache.variant}` (${name})" if can(regex("-nvidia(?:-fips)?$", cache.variant))])}."
  }

  validation {
    condition     = !anytrue([for cache in var.caches : startswith(cache.variant, "aws-mantle")])
    error_message = "A variant does not work with snapshots: ${join(", ", [for name, cache in var.caches : "`${cache.variant}` (${name})" if startswith(cache.variant, "aws-mantle")])}. The data volume of an aws-mantle variant is bound to the TPM of one instance. Use an aws-k8s variant."
  }

  # From 1.28 on, the data volume is XFS. AWS does not publish older variants any more.
  validation {
    condition     = alltrue([for cache in var.caches : can(regex("^aws-k8s-1\\.(?:2[89]|[3-9][0-9]|[1-9][0-9]{2})(?:-nvidia)?(?:-fips)?$|^aws-mantle", cache.variant))])
    error_message = "A variant is unknown: ${join(", ", [for name, cache in var.caches : "`${cache.variant}` (${name})" if !can(regex("^aws-k8s-1\\.(?:2[89]|[3-9][0-9]|[1-9][0-9]{2})(?:-nvidia)?(?:-fips)?$|^aws-mantle", cache.variant))])}. Use `aws-k8s-1.NN` with NN from 28, or the same with `-fips`."
  }

  validation {
    condition     = alltrue([for cache in var.caches : can(regex("^(?:latest|[0-9]{1,4}\\.[0-9]{1,4}\\.[0-9]{1,4})$", cache.bottlerocket_version))])
    error_message = "bottlerocket_version is invalid: ${join(", ", [for name, cache in var.caches : "${name} has `${cache.bottlerocket_version}`"])}. Use `latest` or a release like `1.57.0`."
  }

  # On these releases every build fails. plan-build says why: see BottlerocketVersion::check_usable.
  validation {
    condition     = !anytrue([for cache in var.caches : can(regex("^(?:0\\.|1\\.(?:[0-9]|[1-3][0-9]|4[0-3]|58)\\.)", cache.bottlerocket_version))])
    error_message = "bottlerocket_version cannot be built: ${join(", ", [for name, cache in var.caches : "${name} has `${cache.bottlerocket_version}`"])}. Use 1.44.0 or later, except 1.58.0."
  }

  validation {
    condition     = alltrue([for cache in var.caches : cache.volume.size_gib == floor(cache.volume.size_gib) && cache.volume.size_gib >= 2 && cache.volume.size_gib <= 16384])
    error_message = "volume.size_gib is invalid: ${join(", ", [for name, cache in var.caches : "${name} has ${cache.volume.size_gib}"])}. Use a whole number from 2 to 16384."
  }

  validation {
    condition     = alltrue([for cache in var.caches : cache.volume.iops == floor(cache.volume.iops) && cache.volume.iops >= 3000 && cache.volume.iops <= max(3000, min(80000, 500 * cache.volume.size_gib))])
    error_message = "volume.iops is invalid: ${join(", ", [for name, cache in var.caches : "${name} has ${cache.volume.iops} on ${cache.volume.size_gib} GiB"])}. Use a whole number from 3000 to 80000. Above 3000, EBS allows at most 500 for each GiB."
  }

  validation {
    condition     = alltrue([for cache in var.caches : cache.volume.throughput_mibps == floor(cache.volume.throughput_mibps) && cache.volume.throughput_mibps >= 125 && cache.volume.throughput_mibps <= min(2000, cache.volume.iops / 4)])
    error_message = "volume.throughput_mibps is invalid: ${join(", ", [for name, cache in var.caches : "${name} has ${cache.volume.throughput_mibps} with ${cache.volume.iops} IOPS"])}. Use a whole number from 125 to 2000, and at most a quarter of volume.iops."
  }

  validation {
    condition     = alltrue([for cache in var.caches : can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", cache.volume.kms_key_id)) if cache.volume.kms_key_id != null])
    error_message = "volume.kms_key_id is invalid: ${join(", ", [for name, cache in var.caches : "${name} has `${cache.volume.kms_key_id}`" if cache.volume.kms_key_id != null])}. Use the ARN of a key, not of an alias, because the roles get permissions for this key."
  }

  validation {
    condition     = alltrue(flatten([for cache in var.caches : [for architecture, types in cache.builder.instance_types : length(types) > 0 && alltrue([for type in types : can(regex("^[a-z0-9-]+\\.[a-z0-9-]+$", type))])]]))
    error_message = "builder.instance_types is invalid: ${join(", ", flatten([for name, cache in var.caches : [for architecture, types in cache.builder.instance_types : "${name} has [${join(", ", types)}] for ${architecture}"]]))}. List at least one EC2 instance type, for example `m7i.2xlarge`."
  }

  validation {
    condition     = alltrue(flatten([for cache in var.caches : [for id in cache.builder.subnet_ids : can(regex("^subnet-[0-9a-f]{8,17}$", id))]]))
    error_message = "builder.subnet_ids is invalid: ${join(", ", flatten([for name, cache in var.caches : [for id in cache.builder.subnet_ids : "${name} has `${id}`" if !can(regex("^subnet-[0-9a-f]{8,17}$", id))]]))}. Use IDs of subnets."
  }

  validation {
    condition     = alltrue(flatten([for cache in var.caches : [for id in cache.builder.security_group_ids : can(regex("^sg-[0-9a-f]{8,17}$", id))]]))
    error_message = "builder.security_group_ids is invalid: ${join(", ", flatten([for name, cache in var.caches : [for id in cache.builder.security_group_ids : "${name} has `${id}`" if !can(regex("^sg-[0-9a-f]{8,17}$", id))]]))}. Use IDs of security groups."
  }

  validation {
    condition     = alltrue(flatten([for cache in var.caches : [for host in keys(cache.registry_credentials) : anytrue([for image in cache.images : startswith(image, "${host}/")])]]))
    error_message = "registry_credentials has a host without images: ${join(", ", flatten([for name, cache in var.caches : [for host in keys(cache.registry_credentials) : "${name} has no image of `${host}`" if !anytrue([for image in cache.images : startswith(image, "${host}/")])]]))}. Use the host of an image, for example `docker.io` for Docker Hub."
  }

  validation {
    condition     = !anytrue(flatten([for cache in var.caches : [for host in keys(cache.registry_credentials) : can(regex("^[0-9]{12}\\.dkr[.-]ecr(?:-fips)?\\.", host))]]))
    error_message = "registry_credentials has a private ECR host, which needs none because the module's roles may pull. Remove ${join(", ", flatten([for name, cache in var.caches : [for host in keys(cache.registry_credentials) : "`${host}` (${name})" if can(regex("^[0-9]{12}\\.dkr[.-]ecr(?:-fips)?\\.", host))]]))}."
  }

  validation {
    condition     = alltrue(flatten([for cache in var.caches : [for credentials in cache.registry_credentials : (credentials.secret_arn == null) != (credentials.parameter_name == null)]]))
    error_message = "registry_credentials needs one source for each registry: ${join(", ", flatten([for name, cache in var.caches : [for host, credentials in cache.registry_credentials : "`${host}` (${name})" if(credentials.secret_arn == null) == (credentials.parameter_name == null)]]))}. Set either secret_arn or parameter_name."
  }

  validation {
    condition     = alltrue(flatten([for cache in var.caches : [for credentials in cache.registry_credentials : can(regex("^arn:[a-z-]+:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@-]+$", credentials.secret_arn)) if credentials.secret_arn != null]]))
    error_message = "secret_arn is invalid: ${join(", ", flatten([for name, cache in var.caches : [for credentials in cache.registry_credentials : "${name} has `${credentials.secret_arn}`" if credentials.secret_arn != null]]))}. Use the complete ARN of a secret."
  }

  validation {
    condition     = alltrue(flatten([for cache in var.caches : [for credentials in cache.registry_credentials : can(regex("^/[A-Za-z0-9_./-]+$", credentials.parameter_name)) if credentials.parameter_name != null]]))
    error_message = "parameter_name is invalid: ${join(", ", flatten([for name, cache in var.caches : [for credentials in cache.registry_credentials : "${name} has `${credentials.parameter_name}`" if credentials.parameter_name != null]]))}. Use the name of a parameter, starting with `/`."
  }

  validation {
    condition     = alltrue([for cache in var.caches : cache.parallel_pulls == null ? true : cache.parallel_pulls == floor(cache.parallel_pulls) && cache.parallel_pulls >= 1 && cache.parallel_pulls <= 64])
    error_message = "parallel_pulls is invalid: ${join(", ", [for name, cache in var.caches : "${name} has ${cache.parallel_pulls}" if cache.parallel_pulls != null])}. Use a whole number from 1 to 64."
  }

  validation {
    condition     = alltrue([for cache in var.caches : cache.verification.level == null ? true : contains(["off", "records", "full"], cache.verification.level)])
    error_message = "verification.level is invalid: ${join(", ", [for name, cache in var.caches : "${name} has `${cache.verification.level}`" if cache.verification.level != null])}. Use `off`, `records` or `full`."
  }

  validation {
    condition     = alltrue([for cache in var.caches : length(cache.verification.releases) <= 4 && length(distinct(cache.verification.releases)) == length(cache.verification.releases) && alltrue([for release in cache.verification.releases : can(regex("^[0-9]{1,4}\\.[0-9]{1,4}\\.[0-9]{1,4}$", release))])])
    error_message = "verification.releases is invalid: ${join(", ", [for name, cache in var.caches : "${name} has [${join(", ", cache.verification.releases)}]"])}. Use at most 4 releases like `1.57.0`, each once."
  }

  validation {
    condition     = alltrue([for cache in var.caches : cache.retain_snapshots == floor(cache.retain_snapshots) && cache.retain_snapshots >= 1 && cache.retain_snapshots <= 20])
    error_message = "retain_snapshots is invalid: ${join(", ", [for name, cache in var.caches : "${name} has ${cache.retain_snapshots}"])}. Use a whole number from 1 to 20."
  }

  validation {
    condition     = alltrue([for cache in var.caches : cache.retain_days == floor(cache.retain_days) && cache.retain_days >= 0 && cache.retain_days <= 365])
    error_message = "retain_days is invalid: ${join(", ", [for name, cache in var.caches : "${name} has ${cache.retain_days}"])}. Use a whole number from 0 to 365."
  }

  validation {
    condition     = alltrue([for cache in var.caches : cache.timeout_minutes == floor(cache.timeout_minutes) && cache.timeout_minutes >= 10 && cache.timeout_minutes <= 720])
    error_message = "timeout_minutes is invalid: ${join(", ", [for name, cache in var.caches : "${name} has ${cache.timeout_minutes}"])}. Use a whole number from 10 to 720."
  }

  validation {
    condition     = alltrue([for cache in var.caches : can(regex("^(?:cron\\(\\S+(?: \\S+){5}\\)|rate\\([1-9][0-9]* (?:minute|hour|day)s?\\))$", cache.schedule.expression))])
    error_message = "schedule.expression is invalid: ${join(", ", [for name, cache in var.caches : "${name} has `${cache.schedule.expression}`"])}. Use `cron(minutes hours day-of-month month day-of-week year)` or `rate(N hours)`."
  }

  validation {
    condition     = alltrue([for cache in var.caches : can(regex("^[A-Z][A-Za-z_]*(?:/[A-Z][A-Za-z0-9_+-]*){0,2}$", cache.schedule.time_zone))])
    error_message = "schedule.time_zone is invalid: ${join(", ", [for name, cache in var.caches : "${name} has `${cache.schedule.time_zone}`"])}. Use a name of the IANA time zone database, for example `UTC` or `Europe/Berlin`."
  }

  validation {
    condition     = alltrue([for cache in var.caches : cache.schedule.flexible_minutes == floor(cache.schedule.flexible_minutes) && cache.schedule.flexible_minutes >= 0 && cache.schedule.flexible_minutes <= 1440])
    error_message = "schedule.flexible_minutes is invalid: ${join(", ", [for name, cache in var.caches : "${name} has ${cache.schedule.flexible_minutes}"])}. Use a whole number from 0 to 1440."
  }

  validation {
    condition     = alltrue(flatten([for cache in var.caches : [for account in cache.publication.share_with_accounts : can(regex("^[0-9]{12}$", account))]]))
    error_message = "publication.share_with_accounts is invalid: ${join(", ", flatten([for name, cache in var.caches : [for account in cache.publication.share_with_accounts : "${name} has `${account}`" if !can(regex("^[0-9]{12}$", account))]]))}. Use account IDs: 12 digits in quotes."
  }

  # EBS refuses to share a snapshot if its key's policy cannot admit the other account.
  validation {
    condition     = alltrue([for cache in var.caches : cache.volume.kms_key_id != null if length(cache.publication.share_with_accounts) > 0])
    error_message = "A snapshot that AWS's own key for EBS encrypts cannot be shared. Set volume.kms_key_id to a key that the other accounts may use, in ${join(", ", [for name, cache in var.caches : name if length(cache.publication.share_with_accounts) > 0 && cache.volume.kms_key_id == null])}."
  }

  validation {
    condition     = alltrue(flatten([for cache in var.caches : [for region in cache.publication.copy_to_regions : can(regex("^[a-z]{2,4}(?:-[a-z]+)+-[0-9]{1,2}$", region))]]))
    error_message = "publication.copy_to_regions is invalid: ${join(", ", flatten([for name, cache in var.caches : [for region in cache.publication.copy_to_regions : "${name} has `${region}`" if !can(regex("^[a-z]{2,4}(?:-[a-z]+)+-[0-9]{1,2}$", region))]]))}. Use names of Regions, for example `eu-central-1`."
  }

  validation {
    condition     = alltrue([for cache in var.caches : contains(["immediate", "manual", "soak"], cache.publication.promotion.mode)])
    error_message = "publication.promotion.mode is invalid: ${join(", ", [for name, cache in var.caches : "${name} has `${cache.publication.promotion.mode}`" if !contains(["immediate", "manual", "soak"], cache.publication.promotion.mode)])}. Use `immediate`, `manual` or `soak`."
  }

  validation {
    condition = alltrue([
      for cache in var.caches :
      cache.publication.promotion.mode == "soak"
      ? try(cache.publication.promotion.soak_minutes >= 1 && cache.publication.promotion.soak_minutes <= 43200 && floor(cache.publication.promotion.soak_minutes) == cache.publication.promotion.soak_minutes, false)
      : cache.publication.promotion.soak_minutes == null
    ])
    error_message = "publication.promotion.soak_minutes is invalid in ${join(", ", [for name, cache in var.caches : name if cache.publication.promotion.soak_minutes != null || cache.publication.promotion.mode == "soak"])}. Set it to a whole number from 1 to 43200 if the mode is `soak`, and leave it out otherwise."
  }

  validation {
    condition     = alltrue(flatten([for cache in var.caches : concat([length(cache.tags) <= 42], [for key, value in cache.tags : can(regex("^.{1,128}$", key)) && length(value) <= 256 && !can(regex("^(?:(?i:aws:)|prepull:)", key))])]))
    error_message = "tags of a cache are invalid: ${join(", ", flatten([for name, cache in var.caches : [for key in keys(cache.tags) : "${name} has `${key}`"]]))}. Use at most 42 tags, keys of 1 to 128 characters without `aws:` and `prepull:`, and values of at most 256 characters."
  }

  # CopySnapshot needs a key in the Region of the copy. A copy with the default key there could not be shared.
  validation {
    condition     = !anytrue([for cache in var.caches : length(cache.publication.copy_to_regions) > 0 && !can(regex(":key/mrk-", coalesce(cache.volume.kms_key_id, ":key/mrk-")))])
    error_message = "A copy needs its key in its own Region, but a single-Region key exists only in one: ${join(", ", [for name, cache in var.caches : "${name} has `${cache.volume.kms_key_id}`" if length(cache.publication.copy_to_regions) > 0 && !can(regex(":key/mrk-", coalesce(cache.volume.kms_key_id, ":key/mrk-")))])}. Set volume.kms_key_id to a multi-Region key (`mrk-…`) with a replica in each Region of publication.copy_to_regions."
  }
}

variable "builder_settings" {
  description = "Bottlerocket settings for all builders, merged into their user data. plan-build uses their certificates and mirrors, too. They must contain no secret, because user data is readable on the builder and through the EC2 API."

  type = object({
    # Proxy for HTTPS connections, for example `http://proxy.example.com:3128`, without user name and password.
    https_proxy = optional(string)
    # Hosts, domains and CIDR blocks that are reached without the proxy.
    no_proxy = optional(list(string), [])
    # Certificates to trust, in PEM format, by the name of the bundle.
    pki = optional(map(string), {})
    # Mirrors of registries, by the host in the images' references (or `*`), in order of preference. Credentials of a mirror
    # are those in `registry_credentials` for that host.
    registry_mirrors = optional(map(list(string)), {})
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.builder_settings.https_proxy == null ? true : !strcontains(var.builder_settings.https_proxy, "@")
    error_message = "builder_settings.https_proxy has a user name or password, and user data is not secret. Remove it, and let the proxy admit the builders by their subnet or security group."
  }

  validation {
    condition     = var.builder_settings.https_proxy == null ? true : can(regex("^(?:https?://)?[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[1-9][0-9]{0,4})?/?$", replace(var.builder_settings.https_proxy, "/^.*@/", "")))
    error_message = "builder_settings.https_proxy is invalid. Use a host and a port, for example `http://proxy.example.com:3128`."
  }

  validation {
    condition     = alltrue([for host in var.builder_settings.no_proxy : can(regex("^[A-Za-z0-9._:/*-]{1,255}$", host))])
    error_message = "builder_settings.no_proxy is invalid: ${join(" ", var.builder_settings.no_proxy)}. List hosts, domains, addresses or CIDR blocks, each on its own."
  }

  validation {
    condition     = alltrue([for bundle in var.builder_settings.pki : !strcontains(bundle, "PRIVATE KEY")])
    error_message = "builder_settings.pki contains a private key. Remove the key, and list only certificates."
  }

  validation {
    condition = alltrue([for name, bundle in var.builder_settings.pki :
      can(regex("^[A-Za-z0-9_-]{1,64}$", name)) &&
      (strcontains(bundle, "PRIVATE KEY") || can(regex("^\\s*(?:-----BEGIN CERTIFICATE-----\\s+(?:[A-Za-z0-9+/=]+\\s+)+-----END CERTIFICATE-----\\s*)+$", bundle)))
    ])
    error_message = "builder_settings.pki is invalid: ${join(", ", keys(var.builder_settings.pki))}. Use names of 1 to 64 letters, digits, - and _, and certificates in PEM format without other text."
  }

  validation {
    condition     = alltrue([for endpoint in flatten(values(var.builder_settings.registry_mirrors)) : !strcontains(endpoint, "@")])
    error_message = "builder_settings.registry_mirrors has a user name or password, and user data is not secret. Remove it, and set registry_credentials for the host that is mirrored."
  }

  validation {
    condition = alltrue([for host, endpoints in var.builder_settings.registry_mirrors :
      can(regex("^(?:\\*|(?:localhost|[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)+)(?::[1-9][0-9]{0,4})?)$", host)) &&
      alltrue([for endpoint in endpoints : strcontains(endpoint, "@") || can(regex("^(?:https?://)?[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[1-9][0-9]{0,4})?(?:/[A-Za-z0-9._/-]*)?$", endpoint))])
    ])
    error_message = "builder_settings.registry_mirrors is invalid: ${join(", ", keys(var.builder_settings.registry_mirrors))}. Use the host of an image or `*`, with URLs of mirrors like `https://mirror.example.com`."
  }

  # User data has at most 16 KiB. 4 KiB are left for the credentials of registries. Bottlerocket takes certificates in Base64.
  #
  # Source: EC2 user guide, "Run commands when you launch an EC2 instance with user data input".
  validation {
    condition     = length(jsonencode(merge(var.builder_settings, { pki = { for name, bundle in var.builder_settings.pki : name => base64encode(bundle) } }))) <= 12288
    error_message = "builder_settings is too large for user data: it has ${length(jsonencode(merge(var.builder_settings, { pki = { for name, bundle in var.builder_settings.pki : name => base64encode(bundle) } })))} bytes, and 12288 are allowed. Use only the certificates that the registries and the proxy need."
  }
}

variable "debounce_seconds" {
  description = "Seconds that a build waits before it plans, so that a burst of pushes becomes one build. From 20 to 120 seconds, the builder boots during the wait."
  type        = number
  default     = 60

  validation {
    condition     = var.debounce_seconds == floor(var.debounce_seconds) && var.debounce_seconds >= 1 && var.debounce_seconds <= 3600
    error_message = "debounce_seconds is invalid: ${var.debounce_seconds}. Use a whole number from 1 to 3600."
  }
}

################################################################################
# Functions
################################################################################

variable "functions_directory" {
  description = "Directory with `<stage>/bootstrap.zip` for every stage. `cargo lambda build --output-format zip` writes it to `target/lambda`."
  type        = string
}

variable "function_architecture" {
  description = "Architecture of the built functions: `arm64` or `x86_64`. It is independent of the architectures of the caches."
  type        = string
  default     = "arm64"

  validation {
    condition     = contains(["arm64", "x86_64"], var.function_architecture)
    error_message = "function_architecture is invalid: `${var.function_architecture}`. Use `arm64` or `x86_64`."
  }
}

variable "function_environment" {
  description = "Environment variables for every function, for example a proxy, a CA bundle or `RUST_LOG`."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.function_environment) : can(regex("^[A-Za-z][A-Za-z0-9_]+$", name)) && !startswith(name, "PREPULL_")])
    error_message = "function_environment has an invalid name: ${join(", ", keys(var.function_environment))}. Use letters, digits and _, and do not start with PREPULL_, which the module sets."
  }
}

variable "functions_vpc" {
  description = "VPC for plan-build, the function that calls registries, so that it reaches registries that only this VPC can reach. [docs/security.md](../docs/security.md#plan-build-in-a-vpc) lists the endpoints that it needs. The default is no VPC."

  type = object({
    subnet_ids         = list(string)
    security_group_ids = list(string)
  })
  default = null

  validation {
    condition = var.functions_vpc == null ? true : (
      length(var.functions_vpc.subnet_ids) > 0 && length(var.functions_vpc.security_group_ids) > 0 &&
      alltrue([for id in var.functions_vpc.subnet_ids : can(regex("^subnet-[0-9a-f]{8,17}$", id))]) &&
      alltrue([for id in var.functions_vpc.security_group_ids : can(regex("^sg-[0-9a-f]{8,17}$", id))])
    )
    error_message = "functions_vpc is invalid. List at least one ID of a subnet and one of a security group, in the same VPC."
  }
}

variable "log_retention_days" {
  description = "Days that logs are kept. 0 keeps them without limit."
  type        = number
  default     = 30

  validation {
    condition     = contains([0, 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days is invalid: ${var.log_retention_days}. CloudWatch Logs accepts 0, 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731 and some more, up to 3653."
  }
}

variable "log_kms_key_arn" {
  description = "ARN of a KMS key that encrypts the logs. Its policy must allow CloudWatch Logs. The default is CloudWatch's own key."
  type        = string
  default     = null
}

variable "permissions_boundary_arn" {
  description = "ARN of a policy that becomes the permissions boundary of every role."
  type        = string
  default     = null
}

################################################################################
# Alarms
################################################################################

variable "alarm_actions" {
  description = "ARNs of the alarms' actions, usually SNS topics. Without actions, the module creates no alarms."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.alarm_actions : can(regex("^arn:[a-z-]+:[a-z0-9-]+:", arn))]) && length(var.alarm_actions) <= 5
    error_message = "alarm_actions is invalid: ${join(", ", var.alarm_actions)}. List at most 5 ARNs."
  }
}

variable "create_alarms" {
  description = "Whether to create the alarms. The default is whether `alarm_actions` has entries. Set it if that list is unknown at plan time."
  type        = bool
  default     = null
}

variable "alarm_without_success_hours" {
  description = "Hours without a successful build of any cache after which an alarm is raised, or `null` for no alarm. Use more than the time between two schedules."
  type        = number
  default     = 36

  validation {
    # CloudWatch limits the period of an alarm to seven days.
    condition     = var.alarm_without_success_hours == null ? true : var.alarm_without_success_hours >= 1 && var.alarm_without_success_hours <= 168 && floor(var.alarm_without_success_hours) == var.alarm_without_success_hours
    error_message = "alarm_without_success_hours is invalid: ${coalesce(var.alarm_without_success_hours, 0)}. Use a whole number from 1 to 168, or null."
  }
}

variable "dashboard" {
  description = "Creates a CloudWatch dashboard for all caches. [docs/costs.md](../docs/costs.md#the-dashboard) has its price."
  type        = bool
  default     = false
  nullable    = false
}

variable "pull_through_cache_prefixes" {
  description = "Repository prefixes of the pull-through cache rules that `caches` reference, in every account: `docker-hub` for `docker-hub/library/nginx`, and `ROOT` for rules without prefix. plan-build and the builders may import images into the repositories of the caches that have one of these prefixes, and create these repositories."
  type        = list(string)
  default     = []

  # Source: ECR API reference, "CreatePullThroughCacheRule".
  validation {
    condition     = alltrue([for prefix in var.pull_through_cache_prefixes : can(regex("^(?:ROOT|[a-z0-9]+(?:[._/-][a-z0-9]+)*)$", prefix)) && length(prefix) >= 2 && length(prefix) <= 30])
    error_message = "pull_through_cache_prefixes is invalid: ${join(", ", var.pull_through_cache_prefixes)}. Use prefixes of 2 to 30 characters, such as `docker-hub`, without a slash at the end, or `ROOT`."
  }
}

################################################################################
# Builders' network
################################################################################

variable "subnet_ids" {
  description = "Subnets for the builders of caches without their own, all in one VPC. They must reach the registries, SSM, ECR and S3 through the internet or VPC endpoints. The default is the subnets of the default VPC."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for id in var.subnet_ids : can(regex("^subnet-[0-9a-f]{8,17}$", id))])
    error_message = "subnet_ids is invalid: ${join(", ", var.subnet_ids)}. Use IDs of subnets."
  }
}

variable "security_group_ids" {
  description = "Security groups for the builders of caches without their own. By default, the module creates one without ingress."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for id in var.security_group_ids : can(regex("^sg-[0-9a-f]{8,17}$", id))])
    error_message = "security_group_ids is invalid: ${join(", ", var.security_group_ids)}. Use IDs of security groups."
  }
}

variable "create_security_group" {
  description = "Whether to create a security group for builders. The default is whether some cache has none. Set it if a list of security groups is unknown at plan time."
  type        = bool
  default     = null
}

variable "egress_cidr_blocks" {
  description = "Destinations that the security group of the module allows. The default is all, because registries use content delivery networks."
  type        = list(string)
  default     = ["0.0.0.0/0", "::/0"]

  validation {
    condition     = alltrue([for block in var.egress_cidr_blocks : can(cidrhost(block, 0))])
    error_message = "egress_cidr_blocks is invalid: ${join(", ", var.egress_cidr_blocks)}. Use CIDR blocks."
  }
}
