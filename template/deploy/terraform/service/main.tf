# One environment, put together. What is different in production is said here and in the modules, never in two places.

terraform {
  required_version = ">= 1.11"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}

data "aws_region" "this" {}

locals {
  answers    = jsondecode(file("${path.module}/../answers.json"))
  name       = "${local.answers.name}-${var.environment}"
  production = var.environment == "production"

  # What docker would read there, but for paths of secrets, which are variables here, and what is left empty.
  file = { for line in regexall("(?m)^\\s*([A-Za-z_]\\w*)=(.*\\S)", file("${path.module}/../../variables.env")) :
    line[0] => line[1] if !endswith(line[0], "_FILE")
  }
  # First what is the same in every environment, then what this one has in its place.
  variables = merge({ APP_SECURITY_CONTACT = "mailto:${local.answers.contact_email}" }, local.file, {
    APP_ENVIRONMENT     = var.environment
    APP_ALLOWED_HOSTS   = var.domain
    APP_PUBLIC_URL      = coalesce(var.public_url, "https://${var.domain}")
    APP_MAIL_FROM       = var.mail_from
    APP_TRUSTED_PROXIES = join(",", module.network.public_networks)
    APP_SMOKE_EMAILS    = join(",", local.smoke_emails)
    PORT                = "8000"
    METRICS_PORT        = "8001"
  }, var.variables)
  # The two who try the service: at a domain of yours, and with no mailbox. Who knew their names could sign up with them
  # first, or lock them out, and every release would be taken back. So a part of them comes from what is not public, and
  # from the number of the password: `chassis accounts smoke` gives no account another one.
  smoke_hash   = substr(sha256("${var.secrets.key_arn} ${var.secrets.versions["app_smoke_password"]}"), 0, 16)
  smoke_emails = [for name in ["smoke-a", "smoke-b"] : "${name}-${local.smoke_hash}@${split("@", var.mail_from)[1]}"]
  secrets = merge({
    DATABASE_URL   = module.database.secrets["database_url"]
    APP_SECRET_KEY = var.secrets.arns["app_secret_key"]
    APP_SMTP_URL   = aws_secretsmanager_secret.smtp_url.arn
  }, local.shared_store.secrets)
}

module "network" {
  source            = "./network"
  name              = local.name
  cidr              = var.cidr
  zones             = var.zones
  key_arn           = var.secrets.key_arn
  nat_in_every_zone = local.production
}

module "storage" {
  source     = "./storage"
  name       = local.name
  production = local.production
  protected  = var.protected
  key_arn    = var.secrets.key_arn
}

module "edge" {
  source              = "./edge"
  name                = local.name
  domain              = var.domain
  zone_id             = var.zone_id
  vpc_id              = module.network.vpc_id
  subnets             = module.network.public_subnets
  log_bucket          = module.storage.logs
  key_arn             = var.secrets.key_arn
  requests_per_minute = var.requests_per_minute
  protected           = var.protected
}

module "database" {
  source               = "./database"
  name                 = local.name
  package              = local.answers.package
  production           = local.production
  protected            = var.protected
  vpc_id               = module.network.vpc_id
  subnets              = module.network.data_subnets
  tasks_security_group = module.compute.security_group
  class                = var.database_class
  gigabytes            = var.database_gigabytes
  key_arn              = var.secrets.key_arn
  passwords            = var.passwords
  versions             = var.secrets.versions
}

module "compute" {
  source    = "./compute"
  name      = local.name
  tasks     = var.tasks
  variables = local.variables
  secrets   = local.secrets
  migrator_secrets = {
    MIGRATOR_DATABASE_URL = module.database.secrets["migrator_database_url"]
    BACKUP_DATABASE_URL   = module.database.secrets["backup_database_url"]
    APP_SMOKE_PASSWORD    = var.secrets.arns["app_smoke_password"]
  }
  backup = {
    recipients   = var.backup_recipients
    database_url = module.database.secrets["backup_database_url"]
    identity     = aws_secretsmanager_secret.backup_identity.arn
    bucket       = module.storage.backups
  }
  image                   = "${aws_ecr_repository.this.repository_url}:none"
  vpc_id                  = module.network.vpc_id
  subnets                 = module.network.private_subnets
  balancer_security_group = module.edge.security_group
  target_group_arn        = module.edge.target_group_arn
  key_arn                 = var.secrets.key_arn
  stores = merge(
    { database = { security_group = module.database.security_group, port = 5432 } },
    local.shared_store.reached,
  )
}

module "pipeline" {
  source         = "./pipeline"
  name           = local.name
  environment    = var.environment
  github_subject = var.github_subject
  repository_arn = aws_ecr_repository.this.arn
  backups_arn    = module.storage.backups.arn
  key_arn        = var.secrets.key_arn
  cluster        = module.compute.cluster
  service_arn    = module.compute.service.arn
  families       = { for task, family in module.compute.families : task => family if task != "restore" }
  role_arns      = module.compute.role_arns
  log_group_arn  = module.compute.log_group.arn
}

# A tag is never moved, so that a digest and its tag say the same.
resource "aws_ecr_repository" "this" {
  name                 = local.name
  image_tag_mutability = "IMMUTABLE"
  image_scanning_configuration {
    scan_on_push = true
  }
  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = var.secrets.key_arn
  }
}

resource "aws_ecr_lifecycle_policy" "this" {
  repository = aws_ecr_repository.this.name
  policy = jsonencode({ rules = [{
    rulePriority = 1
    description  = "The last releases, to go back to."
    selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 50 }
    action       = { type = "expire" }
  }] })
}

# The one secret that only you know: `aws secretsmanager put-secret-value` gives it its value.
resource "aws_secretsmanager_secret" "smtp_url" {
  #checkov:skip=CKV2_AWS_57:whoever runs the mail server chose it, and Terraform cannot choose another
  name        = "${local.name}/app_smtp_url"
  description = "Where mail goes: smtp:// with STARTTLS, or smtps://"
  kms_key_id  = var.secrets.key_arn
}

# The private age key, for as long as somebody restores: beside the backups that it opens it is not to stay.
resource "aws_secretsmanager_secret" "backup_identity" {
  #checkov:skip=CKV2_AWS_57:it is empty until somebody restores, and deleted afterwards
  name                    = "${local.name}/app_backup_identity"
  description             = "Empty, except during a restore: docs/runbooks/restore.md"
  kms_key_id              = var.secrets.key_arn
  recovery_window_in_days = 0
}
