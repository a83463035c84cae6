# PostgreSQL, which only the tasks reach, and only with TLS; and the addresses of it that they are given.

variable "name" {
  type = string
}

variable "package" {
  type = string
}

variable "production" {
  type = bool
}

variable "protected" {
  type = bool
}

variable "vpc_id" {
  type = string
}

variable "subnets" {
  type = list(string)
}

variable "tasks_security_group" {
  type = string
}

variable "class" {
  type = string
}

variable "gigabytes" {
  type = number
}

variable "key_arn" {
  type = string
}

variable "passwords" {
  type      = map(string)
  ephemeral = true
  sensitive = true
}

variable "versions" {
  type = map(number)
}

data "aws_region" "this" {}

locals {
  migrator = "${var.package}_deploy"
  users = {
    database_url          = { name = "${var.package}_app", password = "database_app" }
    backup_database_url   = { name = "${var.package}_backup", password = "database_backup" }
    migrator_database_url = { name = local.migrator, password = "database_migrator" }
  }
  # Both asyncpg and libpq read the file, which is in the image.
  address = "${aws_db_instance.this.endpoint}/${var.package}?sslmode=verify-full&sslrootcert=/app/rds-ca.crt"
}

resource "aws_db_subnet_group" "this" {
  name       = var.name
  subnet_ids = var.subnets
}

resource "aws_security_group" "this" {
  name        = "${var.name}-database"
  description = "The database"
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-database" }
}

resource "aws_vpc_security_group_ingress_rule" "tasks" {
  security_group_id            = aws_security_group.this.id
  description                  = "The tasks"
  referenced_security_group_id = var.tasks_security_group
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}

resource "aws_db_parameter_group" "this" {
  name   = var.name
  family = "postgres18"
  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }
  parameter {
    name  = "log_statement"
    value = "ddl"
  }
  # Milliseconds. The statement is logged without its parameters, which are people's data.
  parameter {
    name  = "log_min_duration_statement"
    value = "1000"
  }
  parameter {
    name  = "log_parameter_max_length"
    value = "0"
  }
  lifecycle {
    create_before_destroy = true
  }
}

# RDS would make them by itself: without our key, and for ever. What an error quotes is people's data.
resource "aws_cloudwatch_log_group" "this" {
  for_each          = toset(["postgresql", "upgrade"])
  name              = "/aws/rds/instance/${var.name}/${each.key}"
  retention_in_days = 365
  kms_key_id        = var.key_arn
}

resource "aws_db_instance" "this" {
  #checkov:skip=CKV_AWS_157:two zones in production, one in staging, which service.tftest.hcl asserts
  identifier     = var.name
  engine         = "postgres"
  engine_version = "18"
  instance_class = var.class

  db_name             = var.package
  username            = local.migrator
  password_wo         = var.passwords["database_migrator"]
  password_wo_version = var.versions["database_migrator"]

  db_subnet_group_name                = aws_db_subnet_group.this.name
  vpc_security_group_ids              = [aws_security_group.this.id]
  publicly_accessible                 = false
  multi_az                            = var.production
  parameter_group_name                = aws_db_parameter_group.this.name
  ca_cert_identifier                  = "rds-ca-rsa2048-g1"
  iam_database_authentication_enabled = true

  storage_type          = "gp3"
  allocated_storage     = var.gigabytes
  max_allocated_storage = 10 * var.gigabytes
  storage_encrypted     = true
  kms_key_id            = var.key_arn

  # To any second of these days.
  backup_retention_period   = var.production ? 14 : 7
  backup_window             = "02:00-03:00"
  maintenance_window        = "sun:03:30-sun:04:30"
  copy_tags_to_snapshot     = true
  delete_automated_backups  = false
  deletion_protection       = var.protected
  skip_final_snapshot       = false
  final_snapshot_identifier = "${var.name}-final"

  auto_minor_version_upgrade      = true
  enabled_cloudwatch_logs_exports = keys(aws_cloudwatch_log_group.this)
  performance_insights_enabled    = true
  performance_insights_kms_key_id = var.key_arn
  monitoring_interval             = 60
  monitoring_role_arn             = aws_iam_role.monitoring.arn

  lifecycle {
    precondition {
      condition     = strcontains(file("${path.module}/../../rds-ca.crt"), "\n# ${data.aws_region.this.name}\n")
      error_message = "deploy/terraform/rds-ca.crt has no root for ${data.aws_region.this.name}: add Amazon's."
    }
  }
}

resource "aws_iam_role" "monitoring" {
  name = "${var.name}-database-monitoring"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "monitoring.rds.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy_attachment" "monitoring" {
  role       = aws_iam_role.monitoring.name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AmazonRDSEnhancedMonitoringRole"
}

resource "aws_secretsmanager_secret" "url" {
  #checkov:skip=CKV2_AWS_57:a rotation by itself would lock out tasks that are running; raise a number in `versions` instead
  for_each    = local.users
  name        = "${var.name}/${each.key}"
  description = "The database, as ${each.value.name}"
  kms_key_id  = var.key_arn
}

resource "aws_secretsmanager_secret_version" "url" {
  for_each                 = local.users
  secret_id                = aws_secretsmanager_secret.url[each.key].id
  secret_string_wo         = "postgresql://${each.value.name}:${var.passwords[each.value.password]}@${local.address}"
  secret_string_wo_version = var.versions[each.value.password]
}

output "instance" {
  value = aws_db_instance.this.identifier
}

output "security_group" {
  value = aws_security_group.this.id
}

output "secrets" {
  description = "Where the addresses are kept: database_url, backup_database_url and migrator_database_url."
  value       = { for name, version in aws_secretsmanager_secret_version.url : name => version.secret_id }
}
