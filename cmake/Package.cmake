# Installation (cmake --install) and the Debian package (cpack, or the target "package"): executables, units, manual pages and shell
# completion made by the executables themselves, examples and documents.
include(GNUInstallDirs)

set(pages)
foreach(program qtrp-server qtrp-client)
  set(page ${PROJECT_BINARY_DIR}/pages/${program})
  add_custom_command(OUTPUT ${page}.1.gz ${page}.bash ${page}.zsh
    COMMAND ${CMAKE_COMMAND} -E make_directory ${PROJECT_BINARY_DIR}/pages
    COMMAND ${program} man > ${page}.1
    COMMAND gzip -9nf ${page}.1
    COMMAND ${program} completion bash > ${page}.bash
    COMMAND ${program} completion zsh > ${page}.zsh
    DEPENDS ${program} VERBATIM)
  list(APPEND pages ${page}.1.gz ${page}.bash ${page}.zsh)
  install(TARGETS ${program} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(FILES ${page}.1.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
  install(FILES ${page}.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME ${program})
  install(FILES ${page}.zsh DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions RENAME _${program})
endforeach()
add_custom_target(qtrp_pages ALL DEPENDS ${pages})

set(unit_dir lib/systemd/system)
set(doc_dir ${CMAKE_INSTALL_DATADIR}/doc/qtrp)
foreach(role server client)
  # The unit starts the executable from where it is installed, which only the installation knows.
  install(CODE "
    file(READ \"${PROJECT_SOURCE_DIR}/config/qtrp-${role}.service\" unit)
    string(REPLACE \"/usr/bin/qtrp-${role}\" \"\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR}/qtrp-${role}\" unit \"\${unit}\")
    file(WRITE \"${PROJECT_BINARY_DIR}/pages/qtrp-${role}.service\" \"\${unit}\")")
  install(FILES ${PROJECT_BINARY_DIR}/pages/qtrp-${role}.service DESTINATION ${unit_dir})
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/config/qtrp-${role}.service.d DESTINATION ${doc_dir}/examples)
endforeach()
install(FILES config/qtrp.sysusers DESTINATION lib/sysusers.d RENAME qtrp.conf)
install(FILES config/server.yaml config/client.yaml config/alerts.yml config/grafana-dashboard.json DESTINATION ${doc_dir}/examples)
file(GLOB documents CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/docs/*.md)
install(FILES ${documents} README.md README.zh.md CHANGELOG.md DESTINATION ${doc_dir})
install(FILES LICENSE DESTINATION ${doc_dir} RENAME copyright)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME qtrp)
set(CPACK_PACKAGE_VERSION ${QTRP_VERSION_STRING})
set(CPACK_PACKAGE_CONTACT "QTRP developers <qtrp@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "reverse tunnel: TCP services behind NAT as ports of a server")
set(CPACK_PACKAGE_DESCRIPTION
  "qtrp-server runs on a machine with a public address, qtrp-client next to the services. Each user connection travels through one\nauthenticated tunnel (TLS 1.3, Noise or QUIC). Neither service is started before it is configured: see qtrp-server init.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEB_COMPONENT_INSTALL OFF)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "passwd")
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "systemd")
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${PROJECT_SOURCE_DIR}/cmake/debian/postinst ${PROJECT_SOURCE_DIR}/cmake/debian/prerm
  ${PROJECT_SOURCE_DIR}/cmake/debian/postrm)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
include(CPack)
