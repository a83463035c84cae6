output "url" {
  value = "https://${var.domain}"
}

output "backups" {
  description = "The bucket."
  value       = module.storage.backups.name
}

output "drill" {
  description = "What the environment `drill` of GitHub is told, in production."
  value = {
    AWS_ROLE       = module.pipeline.drill_role_arn
    AWS_REGION     = data.aws_region.this.name
    APP_BACKUP_URL = "s3://${module.storage.backups.name}/${local.name}"
  }
}

output "smoke" {
  description = "Who tries the service, and where their password is."
  value       = { emails = join(",", local.smoke_emails), password_secret = var.secrets.arns["app_smoke_password"] }
}

output "smtp_url_secret" {
  description = "Where the URL of your mail server is to be put."
  value       = aws_secretsmanager_secret.smtp_url.name
}

output "backup_identity_secret" {
  description = "Where the private age key is put for a restore, and only then."
  value       = aws_secretsmanager_secret.backup_identity.name
}

output "deployment" {
  description = "What a deployment works with."
  value = {
    environment    = var.environment
    region         = data.aws_region.this.name
    role           = module.pipeline.role_arn
    repository     = aws_ecr_repository.this.repository_url
    cluster        = module.compute.cluster.name
    service        = module.compute.service.name
    families       = module.compute.families
    subnets        = module.network.private_subnets
    security_group = module.compute.security_group
    log_group      = module.compute.log_group.name
  }
}
